"""What the server behind `openai` answers, as the shim has it: chunks, token counts, errors and whose fault they are.

Pure; used by `openai`.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from workers_shim import Chunk, RequestError, Unavailable, Usage
from workers_shim.engines.sse import EventParser, EventTooLargeError

MAX_MESSAGE = 1_000
"""Characters of a server's error that a client is told."""
_BUSY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_KEY_REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED})
_PAUSE = 1.0
_MAX_PAUSE = 2.0
"""Seconds: without and with a `Retry-After`. A request has few tries, and a slot waits meanwhile."""
_DONE = b"[DONE]"
_LLAMACPP_TOO_LONG = "exceed_context_size_error"
"""Its type for what OpenAI has a code for."""


class ServerError(Exception):
    """The server failed, or answered with what is no answer."""


class BusyError(Unavailable):
    """The server takes nothing at present, and may in `pause` seconds."""

    def __init__(self, sentence: str, pause: float) -> None:
        super().__init__(sentence)
        self.pause = pause


class ModelGoneError(Unavailable):
    """The server does not have the model any more."""


class _Answer(Struct):
    """What the shim has to know of a chunk, or of a whole answer. All else is the client's business."""

    choices: Any = None
    usage: Any = None
    error: Any = None


class _PlainChoice(Struct):
    finish_reason: str | None = None


class _PlainChunk(Struct):
    """Nearly every chunk: of a form that can be read without keeping what is in it."""

    choices: list[_PlainChoice] = []
    usage: None = None
    error: None = None


_read = msgspec.json.Decoder(_Answer).decode
_read_plain = msgspec.json.Decoder(_PlainChunk).decode


class ChunkStream:
    """The chunks of one streamed answer.

    Attributes:
        done: the server has said `[DONE]`.
        has_end: it has said that, or why the answer ended: some leave the one or the other out.
    """

    def __init__(self, *, as_text: bool) -> None:
        self._as_text = as_text
        self._events = EventParser()
        self.done = False
        self.has_end = False

    def feed(self, piece: bytes) -> Iterator[Chunk]:
        """What is complete now. Raises: as `read_chunk`."""
        try:
            events = self._events.feed(piece)
        except EventTooLargeError as error:
            raise ServerError(str(error)) from error
        for data in events:
            if data == _DONE:
                self.done = self.has_end = True
                return
            chunk = read_chunk(data, as_text=self._as_text)
            self.has_end = self.has_end or chunk.finish_reason is not None
            yield chunk

    def finish(self) -> Iterator[Chunk]:
        """The body has ended: some servers leave out the empty line behind the last event."""
        return self.feed(b"\n\n")


def read_chunk(data: bytes, *, as_text: bool) -> Chunk:
    """A chunk or a whole answer, which goes to the client as it came; `as_text`, only its text does.

    Raises: ServerError, RequestError, Unavailable.
    """
    if not as_text and (plain := _plain_chunk(data)) is not None:
        return plain
    try:
        answer = _read(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ServerError(f"the server sent {data[:80]!r}, which is no JSON object") from error
    if answer.error:
        raise failure_in_stream(data)
    choices = [choice for choice in answer.choices or () if isinstance(choice, dict)]
    reason = next((reason for choice in choices if isinstance(reason := choice.get("finish_reason"), str)), None)
    usage = _usage_of(answer.usage)
    if as_text:
        return Chunk("".join(map(_text_of, choices)), finish_reason=reason, usage=usage)
    return Chunk(payload=data, finish_reason=reason, usage=usage)


def _plain_chunk(data: bytes) -> Chunk | None:
    """None for a chunk of any other form, wrong ones too."""
    try:
        if not data.isascii():
            # What is not kept is not looked at, either.
            data.decode()
        chunk = _read_plain(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for choice in chunk.choices:
        if choice.finish_reason is not None:
            return Chunk(payload=data, finish_reason=choice.finish_reason)
    return Chunk(payload=data)


def failure_of(status: int, body: bytes, retry_after: str = "") -> Exception:
    """What an answer with another status than 200 means for the request."""
    message = error_message(body) or f"HTTP {status} without a word"
    if status in _BUSY:
        pause = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else _PAUSE
        return BusyError(f"the server takes nothing at present (HTTP {status}): {message}", min(pause, _MAX_PAUSE))
    if status in _KEY_REFUSED:
        return Unavailable(f"the server refuses this worker's API key (HTTP {status}): {message}")
    if status == HTTPStatus.NOT_FOUND and "model" in message.lower():
        return ModelGoneError(f"the server does not have the model (HTTP 404): {message}")
    # llama.cpp says 501 of what it was not started for.
    if 400 <= status < 500 or status == HTTPStatus.NOT_IMPLEMENTED:
        return refusal(message, _inner(_decoded(body)))
    return ServerError(f"the server answers with HTTP {status}: {message}")


def failure_in_stream(data: bytes) -> Exception:
    """What an error means that comes as an event, or in an answer with status 200. It has begun: nobody is to retry."""
    inner = _inner(_decoded(data))
    code = inner.get("code") if isinstance(inner, dict) else None
    message = error_message(data) or "an error without a word"
    if isinstance(code, int) and 400 <= code < 500 and code not in _BUSY:
        return refusal(message, inner)
    return ServerError(f"the server ended the answer with an error: {message}")


def refusal(message: str, error: object) -> RequestError:
    """By the server's own words for programs, where its error object has some: they are what a client decides by."""
    if not isinstance(error, dict):
        return RequestError(message)
    code, param = error.get("code"), error.get("param")
    if error.get("type") == _LLAMACPP_TOO_LONG:
        code = "context_length_exceeded"
    # Many have the HTTP status for a code, which says nothing here.
    return RequestError(
        message, code=code if isinstance(code, str) else "", param=param if isinstance(param, str) else ""
    )


def error_message(body: bytes) -> str:
    """The sentence in an error's body, however the server writes it; "" where there is none."""
    error = _inner(_decoded(body))
    if isinstance(error, dict):
        # OpenAI, vLLM: {"error": {"message"}}; Ollama's and TGI's own: {"error": text}; old vLLM: {"message"};
        # FastAPI: {"detail"}.
        error = next((error[key] for key in ("message", "detail") if error.get(key)), error)
    text = error if isinstance(error, str) else msgspec.json.encode(error).decode() if error else ""
    return " ".join(text.split())[:MAX_MESSAGE]


def _inner(error: Any) -> Any:
    return error.get("error", error) if isinstance(error, dict) else error


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode(errors="replace")


def _text_of(choice: dict[str, Any]) -> str:
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return text if isinstance(text, str) else ""


def _usage_of(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    # An embedding has no completion.
    prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens") or 0
    if isinstance(prompt_tokens, int) and isinstance(completion_tokens, int):
        return Usage(prompt_tokens, completion_tokens)
    return None
