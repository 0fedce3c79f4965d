"""What a `ServiceError` looks like in each protocol, and what FastAPI's own errors look like.

Used by `routes`, by every surface, and by `app` for what happens outside of a surface.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from broker_controller.errors import (
    BadRequestError,
    EngineRefusedError,
    InternalError,
    ModelNotFoundError,
    PreviousResponseNotFoundError,
    ServiceError,
    Subject,
    client_text,
    code_of,
    meaning_of,
    retry_seconds,
)
from broker_controller.http.call import JSON, OCTETS, Header


class ErrorAnswer(Struct, frozen=True):
    """A whole answer."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()
    content_type: bytes = JSON


_DO_NOT_RETRY: Header = (b"x-should-retry", b"false")
"""OpenAI's clients repeat whatever has a status of 500 or more, a request that kills workers, too, but for this."""

ErrorStyle = Callable[[ServiceError], ErrorAnswer]
"""How a protocol says an error before the first byte of an answer."""


_PARAMETERS = {ModelNotFoundError: "model", PreviousResponseNotFoundError: "previous_response_id"}


def openai_error(error: ServiceError) -> bytes:
    """OpenAI's error object."""
    meaning = meaning_of(error)
    param = next((name for kind, name in _PARAMETERS.items() if isinstance(error, kind)), None)
    if isinstance(error, EngineRefusedError):
        param = error.param or None
    fields = {"message": client_text(error), "type": meaning.openai_type, "param": param, "code": code_of(error)}
    return msgspec.json.encode({"error": fields})


def openai_style(error: ServiceError) -> ErrorAnswer:
    """OpenAI's object with the real status."""
    meaning = meaning_of(error)
    again = () if meaning.retryable or meaning.status < HTTPStatus.INTERNAL_SERVER_ERROR else (_DO_NOT_RETRY,)
    return ErrorAnswer(meaning.status, openai_error(error), (*_retry_after(error), *again))


def cumulative_error(error: ServiceError, **more: Any) -> bytes:
    """LLaVA's object: a text for the user, a code, and what else is known of the answer."""
    return msgspec.json.encode({"text": client_text(error), "error_code": meaning_of(error).llava_code, **more})


def cumulative_style(error: ServiceError) -> ErrorAnswer:
    """LLaVA's object. Its clients know no status but 200, except for requests that are no requests."""
    is_no_request = isinstance(error, BadRequestError) and not isinstance(error, EngineRefusedError)
    status = meaning_of(error).status if is_no_request else HTTPStatus.OK
    return ErrorAnswer(status, cumulative_error(error), _retry_after(error))


def cumulative_stream_style(error: ServiceError) -> ErrorAnswer:
    """The same as the only object of a stream: with the NUL that clients cut streams at."""
    answer = cumulative_style(error)
    if answer.status != HTTPStatus.OK:
        return answer
    return ErrorAnswer(answer.status, answer.body + b"\0", answer.headers, OCTETS)


def detail_style(error: ServiceError) -> ErrorAnswer:
    """As FastAPI writes errors: for everything that has no protocol's own form."""
    body = msgspec.json.encode({"detail": client_text(error)})
    return ErrorAnswer(meaning_of(error).status, body, _retry_after(error))


def answer_for_error(path: str, error: ServiceError) -> ErrorAnswer:
    """A `ServiceError` outside of a surface, in the form of the path's protocol."""
    return openai_style(error) if path.startswith("/v1/") else detail_style(error)


def answer_for_bug(path: str, request_id: str) -> ErrorAnswer:
    """What a client is told of an error that nobody foresaw. The traceback is in the log, under the same id."""
    return answer_for_error(path, InternalError("it failed inside the controller", subject=Subject(request_id)))


def _retry_after(error: ServiceError) -> tuple[Header, ...]:
    seconds = retry_seconds(error)
    return () if seconds is None else ((b"retry-after", b"%d" % seconds),)
