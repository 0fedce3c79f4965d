"""Puts an OpenAI answer that does not stream together, from the same chunks that a stream would have shown.

An answer that the engine has whole is passed on as it is.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from broker_controller.errors import EngineError
from broker_controller.http.chunk_merge import is_chunk, merge_chunks
from broker_controller.http.events import usage_json
from broker_controller.http.ids import hex_id
from broker_controller.http.logprobs import append_logprobs
from broker_controller.http.shapes import CHAT, Shape
from broker_wire.messages import End, Piece


class Choice:
    """One of the `n` answers, as it grows."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.logprobs: dict[str, Any] = {}
        self._parts: list[str] = []

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._parts)

    def add_text(self, text: str) -> None:
        """Plain text."""
        self._parts.append(text)

    def add(self, piece: Piece) -> None:
        """A chunk with more than that."""
        if piece.replace_from is not None:
            self._parts = [self.text[: piece.replace_from]]
        self._parts.append(piece.text)
        if piece.logprobs is not None:
            append_logprobs(self.logprobs, piece.logprobs)
        self.finish_reason = piece.finish_reason or self.finish_reason


def assemble(shape: Shape, model: str, items: Sequence[str | Piece | End]) -> bytes:
    """The JSON of the whole answer.

    Args:
        items: everything that came; the last is an `End`.

    Raises: EngineError, if the engine's own chunks cannot be read.
    """
    end = items[-1]
    if type(end) is End and end.result is not None:
        return end.result
    if any(type(item) is Piece and item.payload is not None for item in items):
        return _assemble_foreign(shape, items)
    choices = {0: Choice()}
    for item in items:
        if type(item) is str:
            choices[0].add_text(item)
        elif type(item) is Piece:
            choices.setdefault(item.index, Choice()).add(item)
    reason = end.finish_reason if type(end) is End else "stop"
    answer: dict[str, Any] = {
        "id": shape.id_prefix + hex_id(24),
        "object": shape.kind,
        "created": int(time.time()),
        "model": model,
        "choices": [_choice(shape, index, choice, reason) for index, choice in sorted(choices.items())],
    }
    if type(end) is End and end.usage is not None:
        answer["usage"] = msgspec.Raw(usage_json(end.usage))
    return msgspec.json.encode(answer)


def _choice(shape: Shape, index: int, choice: Choice, finish_reason: str) -> dict[str, Any]:
    return {
        "index": index,
        **shape.content(choice.text),
        "logprobs": choice.logprobs or None,
        "finish_reason": choice.finish_reason or finish_reason,
    }


def _assemble_foreign(shape: Shape, items: Sequence[str | Piece | End]) -> bytes:
    try:
        chunks = [_foreign_chunk(shape, item) for item in items if type(item) is not End]
        first, end = items[0], items[-1]
        if len(chunks) == 1 and type(first) is Piece and first.payload is not None and not is_chunk(chunks[0]):
            return first.payload
        answer = merge_chunks(shape.kind, chunks)
        if type(end) is End:
            # An engine may say these apart from its own chunks.
            for choice in answer["choices"]:
                choice["finish_reason"] = choice.get("finish_reason") or end.finish_reason
            if end.usage is not None:
                answer.setdefault("usage", msgspec.Raw(usage_json(end.usage)))
        return msgspec.json.encode(answer)
    except (msgspec.DecodeError, TypeError, AttributeError, KeyError) as error:
        raise EngineError("the engine's answer cannot be read: it is not made of OpenAI's chunks") from error


def _foreign_chunk(shape: Shape, item: str | Piece | End) -> dict[str, Any]:
    """What the engine wrote as text between its own chunks is a chunk, too."""
    if type(item) is Piece and item.payload is not None:
        return msgspec.json.decode(item.payload, type=dict[str, Any])
    index, text = (item.index, item.text) if type(item) is Piece else (0, item)
    content = {"delta": {"content": text}} if shape is CHAT else {"text": text}
    return {"choices": [{"index": index, **content}]}
