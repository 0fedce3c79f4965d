"""What a `ServiceError` looks like in each protocol, and what FastAPI's own errors look like.

Used by `routes`, by every surface, and by `app` for what happens outside of a surface.
"""

import math
from collections.abc import Callable
from http import HTTPStatus

import msgspec
from msgspec import Struct

from broker_controller.errors import (
    BadRequestError,
    EngineRefusedError,
    ModelNotFoundError,
    ServiceError,
    meaning_of,
)
from broker_controller.http.call import JSON, OCTETS, Header

DEFAULT_RETRY_AFTER = 1
"""Seconds, where the error itself does not say."""

_WITH_RETRY_AFTER = frozenset(
    {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


class ErrorAnswer(Struct, frozen=True):
    """A whole answer."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()
    content_type: bytes = JSON


ErrorStyle = Callable[[ServiceError], ErrorAnswer]
"""How a protocol says an error before the first byte of an answer."""


def openai_error(error: ServiceError) -> bytes:
    """OpenAI's error object."""
    meaning = meaning_of(error)
    parameter = "model" if isinstance(error, ModelNotFoundError) else None
    return _openai_object(str(error), meaning.openai_type, meaning.openai_code, parameter)


def openai_style(error: ServiceError) -> ErrorAnswer:
    """OpenAI's object with the real status."""
    return ErrorAnswer(meaning_of(error).status, openai_error(error), _retry_after(error))


def cumulative_error(error: ServiceError) -> bytes:
    """LLaVA's object: a text for the user, and a code."""
    return b'{"text": %b, "error_code": %d}' % (msgspec.json.encode(str(error)), meaning_of(error).llava_code)


def cumulative_style(error: ServiceError) -> ErrorAnswer:
    """LLaVA's object. Its clients know no status but 200, except for requests that are no requests."""
    is_no_request = isinstance(error, BadRequestError) and not isinstance(error, EngineRefusedError)
    return ErrorAnswer(meaning_of(error).status if is_no_request else HTTPStatus.OK, cumulative_error(error))


def cumulative_stream_style(error: ServiceError) -> ErrorAnswer:
    """The same as the only object of a stream: with the NUL that clients cut streams at."""
    answer = cumulative_style(error)
    if answer.status != HTTPStatus.OK:
        return answer
    return ErrorAnswer(answer.status, answer.body + b"\0", content_type=OCTETS)


def detail_style(error: ServiceError) -> ErrorAnswer:
    """As FastAPI writes errors: for everything that has no protocol's own form."""
    return ErrorAnswer(meaning_of(error).status, _detail_object(str(error)), _retry_after(error))


def answer_for_status(path: str, status: int, sentence: str, headers: tuple[Header, ...] = ()) -> ErrorAnswer:
    """An error of HTTP itself (no such path, not this method), in the form of the path's protocol."""
    if _is_openai(path):
        kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        code = HTTPStatus(status).phrase.lower().replace(" ", "_")
        return ErrorAnswer(status, _openai_object(sentence, kind, code, None), headers)
    return ErrorAnswer(status, _detail_object(sentence), headers)


def answer_for_error(path: str, error: ServiceError) -> ErrorAnswer:
    """A `ServiceError` outside of a surface, in the form of the path's protocol."""
    return openai_style(error) if _is_openai(path) else detail_style(error)


def answer_for_bug(path: str, request_id: str) -> ErrorAnswer:
    """What a client is told of an error that nobody foresaw. The traceback is in the log, under the same id."""
    sentence = f"request {request_id} failed inside the controller; its log has the reason under this id"
    return answer_for_status(path, HTTPStatus.INTERNAL_SERVER_ERROR, sentence)


def _is_openai(path: str) -> bool:
    return path.startswith("/v1/")


def _openai_object(message: str, kind: str, code: str, parameter: str | None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": parameter, "code": code}})


def _detail_object(sentence: str) -> bytes:
    return msgspec.json.encode({"detail": sentence})


def _retry_after(error: ServiceError) -> tuple[Header, ...]:
    if meaning_of(error).status not in _WITH_RETRY_AFTER:
        return ()
    seconds = DEFAULT_RETRY_AFTER if error.retry_after is None else math.ceil(error.retry_after)
    return ((b"retry-after", b"%d" % max(1, seconds)),)
