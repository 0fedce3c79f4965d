"""What a chunk of a chat's answer adds: text, calls of functions, a reason for the end, counts. Pure.

The chunks are plain text, pieces of the engine's own making, or OpenAI's own chunks, and an answer may come whole.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from broker_controller.errors import EngineError
from broker_wire.messages import End, Piece, Usage


class TextDelta(Struct, frozen=True):
    """More of the text, with its tokens' logprobs where the engine gives them."""

    text: str
    logprobs: list[Any] = []


class CallDelta(Struct, frozen=True):
    """More of the call of a function; `call_id` and `name` come with its first one."""

    index: int
    call_id: str
    name: str
    arguments: str


class Reason(Struct, frozen=True):
    """Why the answer ended."""

    reason: str


Delta = TextDelta | CallDelta | Reason | Usage


def deltas(item: str | Piece | End) -> Iterator[Delta]:
    """What one chunk adds; of several choices the first alone. Raises: EngineError for a chunk that cannot be read."""
    if isinstance(item, str):
        yield TextDelta(item)
    elif isinstance(item, Piece):
        yield from _of_payload(item.payload) if item.payload is not None else _of_piece(item)
    elif item.result is not None:
        yield from _of_payload(item.result)
    if isinstance(item, End):
        if item.usage is not None:
            yield item.usage
        # What the chunks themselves said before counts.
        yield Reason(item.finish_reason)


def _of_piece(piece: Piece) -> Iterator[Delta]:
    if piece.index:
        return
    # Text that is with a client cannot be taken back: of a `replace_from` only the new text can be sent.
    if piece.text:
        yield TextDelta(piece.text, [] if piece.logprobs is None else _tokens_of(_decode(piece.logprobs)))
    if piece.finish_reason is not None:
        yield Reason(piece.finish_reason)


def _decode(data: bytes) -> Any:
    """Raises: EngineError."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError("the engine's answer cannot be read: it has parts that are no JSON") from error


def _tokens_of(logprobs: Any) -> list[Any]:
    """A chat's, for each token of the text; of any other form nothing can be told."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    return tokens if isinstance(tokens, list) else []


def _of_payload(payload: bytes) -> Iterator[Delta]:
    chunk = _decode(payload)
    try:
        found = list(_of_chunk(chunk))
    except (msgspec.MsgspecError, AttributeError, TypeError, ValueError) as error:
        raise EngineError("the engine's answer cannot be read: it is not made of OpenAI's chunks") from error
    yield from found


def _of_chunk(chunk: dict[str, Any]) -> Iterator[Delta]:
    for choice in chunk.get("choices") or []:
        if choice.get("index"):
            continue
        news = choice.get("delta") or choice.get("message") or {}
        if news.get("content"):
            yield TextDelta(msgspec.convert(news["content"], str), _tokens_of(choice.get("logprobs")))
        for number, call in enumerate(news.get("tool_calls") or []):
            function = call.get("function") or {}
            yield msgspec.convert(
                {
                    "index": call.get("index", number),
                    "call_id": call.get("id") or "",
                    "name": function.get("name") or "",
                    "arguments": function.get("arguments") or "",
                },
                CallDelta,
            )
        if choice.get("finish_reason"):
            yield Reason(msgspec.convert(choice["finish_reason"], str))
    usage = chunk.get("usage")
    if usage:
        yield Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
