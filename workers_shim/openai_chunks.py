"""Chunks of an OpenAI-compatible engine, in whatever form Python code has them: to payloads that reach the client as
they are. Pure; used by `shapes`.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from workers_shim.request import Chunk, Request, RequestError, Usage

_DONE = b"[DONE]"


class _Delta(Struct):
    content: Any = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    """Of an answer in one piece."""
    text: Any = None
    finish_reason: str | None = None


class _Counts(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Read(Struct):
    """What is read of a chunk, or of a whole answer."""

    choices: list[_Choice] | None = None
    usage: _Counts | None = None
    error: Any = None


_read = msgspec.json.Decoder(_Read).decode


class PayloadWriter:
    """For one answer."""

    def __init__(self, request: Request) -> None:
        options = request.parameters.get("stream_options")
        wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._passes_usage = wants_usage or not request.stream

    def feed(self, item: object) -> Iterator[str | Chunk]:
        """A chunk as a dict, its JSON, a server-sent event, or an object of `openai.types`.

        What is a chunk of ours, or an empty text, is passed on as it is.

        Raises: RequestError, RuntimeError, for one that says `error`; TypeError, ValueError, for what is no chunk.
        """
        if isinstance(item, Chunk) or item == "":
            yield item
            return
        for payload in _payloads_of(item):
            yield self._chunk(payload)

    def finish(self) -> Iterator[str | Chunk]:
        """Nothing: the engine's own chunks say how it ended."""
        return iter(())

    def _chunk(self, payload: bytes) -> Chunk:
        try:
            read = _read(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"what was yielded is no chunk of OpenAI's: {error}") from error
        if read.error is not None:
            raise _failure(read.error)
        counts = read.usage
        usage = None if counts is None else Usage(counts.prompt_tokens or 0, counts.completion_tokens or 0)
        if not read.choices:
            # The chunk with the usage alone is for clients that ask for it. A whole answer (embeddings) has no choices.
            is_answer = read.choices is None
            return Chunk(usage=usage, payload=payload if is_answer or self._passes_usage else None)
        choice = next((choice for choice in read.choices if choice.index == 0), read.choices[0])
        said = choice.delta or choice.message
        text = choice.text if said is None else said.content
        return Chunk(
            # For clients of LLaVA's protocol, which have one answer.
            text if isinstance(text, str) and choice.index == 0 else "",
            finish_reason=choice.finish_reason,
            usage=usage,
            payload=payload,
            index=choice.index,
        )


def _payloads_of(item: object) -> Iterator[bytes]:
    """Raises: TypeError."""
    if not isinstance(item, str | bytes | bytearray):
        yield _to_json(item)
        return
    data = item.encode() if isinstance(item, str) else bytes(item)
    if data.lstrip().startswith(b"{"):
        yield data.strip()
        return
    for line in data.splitlines():
        # Server-sent events have other lines, too: comments, ids.
        if line.startswith(b"data:") and (payload := line[5:].strip()) != _DONE:
            yield payload


def _to_json(item: Any) -> bytes:
    for name, how in (("model_dump_json", {"exclude_unset": True}), ("to_json", {})):
        if (method := getattr(item, name, None)) is not None:
            text = method(**how)
            return text if isinstance(text, bytes) else str(text).encode()
    return msgspec.json.encode(item)


def _failure(error: Any) -> Exception:
    """As engines write it into a stream whose status is sent."""
    message, code = (error.get("message"), error.get("code")) if isinstance(error, dict) else (error, None)
    text = str(message or error)
    return RequestError(text) if isinstance(code, int) and 400 <= code < 500 else RuntimeError(text)
