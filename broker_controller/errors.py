"""Every error that a client can see, and the one table of what each means in the protocols that we speak.

    ServiceError
    ├── BadRequestError          the request itself is wrong
    │   ├── NoSuchPathError
    │   ├── WrongMethodError
    │   ├── RequestTooLargeError
    │   ├── LoopError            it went round among controllers that are each other's workers
    │   └── EngineRefusedError   the engine says that it is the request's own fault
    ├── ResponseNotFoundError    no response of this id is kept
    │   └── PreviousResponseNotFoundError  one that a request goes on with
    ├── ModelNotFoundError       no worker serves this model
    ├── WorkerNotFoundError      an address names a worker that is not here
    ├── NotToldError             no worker of the model can tell what was asked of it
    ├── AddressRefusedError      an HTTP worker at an address that may not register
    ├── QueueFullError           the model's queue is at its bound
    ├── OverloadedError          this controller holds as many bytes as it may
    ├── BrokerUnavailableError   the broker is away, or holds its publishers back
    ├── DeadlineError            the request's time is up
    ├── EngineError              the engine raised
    ├── AnswerTooLargeError      the answer is larger than what is kept of one
    ├── WorkerLostError          the worker died, and the request could not move to another
    ├── PoisonError              the request was alone on each of several workers when they died
    ├── ShuttingDownError        this controller leaves
    └── InternalError            a bug of this controller

`client_text` is what a client reads in every protocol: what happened, to which request, for which model, at which
stage and worker, when to try again, and what to do. Whoever raises an error need not know all of that: what is lacking
is filled in on its way to the client, by the gateway and by `http.routes`.
"""

import math
from http import HTTPStatus
from typing import Self

from msgspec import Struct

NOT_QUEUED = "before it was queued"
"""The stage of a request that was refused at the door."""
RETRY_AFTER = 5.0
"""Seconds that a client is told to wait for what nobody can foresee: the end of an alarm, or of a rush."""
DEFAULT_RETRY_AFTER = 1.0
"""Seconds, where an error that says when to try again does not know."""


class Subject(Struct, frozen=True):
    """What an error is about; "" for what is not known, or does not apply.

    Attributes:
        stage: where the request was: before it was queued, in the queue, or at which worker and how far.
    """

    request_id: str = ""
    model: str = ""
    stage: str = ""

    def __str__(self) -> str:
        names = [f"request {self.request_id}"] if self.request_id else []
        if self.model:
            names.append(f"model {self.model!r}")
        return ", ".join(part for part in (" for ".join(names), self.stage) if part)

    def filled_from(self, other: "Subject") -> "Subject":
        """The same, with what the other one knows and this one does not."""
        return Subject(self.request_id or other.request_id, self.model or other.model, self.stage or other.stage)


class ServiceError(Exception):
    """Something that the client is told. `str(error)` is a sentence for people.

    Attributes:
        cause: what happened, as the end of that sentence.
        retry_after: seconds after which it may be worth trying again, for `Retry-After`; None where it is not known.
        subject: what it happened to.
    """

    def __init__(self, cause: str, *, retry_after: float | None = None, subject: Subject | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.retry_after = retry_after
        self.subject = subject or Subject()

    def __str__(self) -> str:
        subject = str(self.subject)
        return f"{subject}: {self.cause}" if subject else self.cause

    def about(self, subject: Subject) -> Self:
        """This error, which now says of its subject what it did not know before."""
        self.subject = self.subject.filled_from(subject)
        return self


class BadRequestError(ServiceError):
    """The request cannot be understood."""


class NoSuchPathError(BadRequestError):
    """There is nothing at this path."""


class WrongMethodError(BadRequestError):
    """The path does not take this method."""


class RequestTooLargeError(BadRequestError):
    """The body is larger than what a message may be."""


class LoopError(BadRequestError):
    """The request has come through more controllers than anybody nests."""


class EngineRefusedError(BadRequestError):
    """The engine refused the request: no worker could serve it.

    Args:
        code: the engine's own word for it, which takes the place of the table's in OpenAI's error object; "" for none.
        param: the field of the request that it complains of, "" for none.
    """

    def __init__(
        self,
        cause: str,
        *,
        retry_after: float | None = None,
        subject: Subject | None = None,
        code: str = "",
        param: str = "",
    ) -> None:
        super().__init__(cause, retry_after=retry_after, subject=subject)
        self.code = code
        self.param = param


class ResponseNotFoundError(ServiceError):
    """No response of this id is kept."""


class PreviousResponseNotFoundError(ResponseNotFoundError):
    """The response that the request goes on with is not kept."""


class ModelNotFoundError(ServiceError):
    """No worker serves this model."""


class WorkerNotFoundError(ServiceError):
    """The worker that the request asks for is not here."""


class NotToldError(ServiceError):
    """No worker of the model can tell what was asked of it."""


class AddressRefusedError(ServiceError):
    """This address may not register as a worker."""


class QueueFullError(ServiceError):
    """As many requests as may wait for this model are waiting."""


class OverloadedError(ServiceError):
    """This controller holds as many bytes of requests and answers as it may."""


class BrokerUnavailableError(ServiceError):
    """The broker does not answer, or holds its publishers back."""


class DeadlineError(ServiceError):
    """The request was not done in time."""


class EngineError(ServiceError):
    """The engine raised an error."""


class AnswerTooLargeError(ServiceError):
    """The answer of a response in the background is larger than what is kept of one."""


class WorkerLostError(ServiceError):
    """The worker was lost, and no other one could go on."""


class PoisonError(ServiceError):
    """Workers died while they ran this request, and it alone."""


class ShuttingDownError(ServiceError):
    """This controller is about to leave."""


class InternalError(ServiceError):
    """This controller has a bug, and gave the request up."""


class Meaning(Struct, frozen=True):
    """What one kind of error is in each protocol.

    Attributes:
        status: HTTP status of `/v1` and of everything that is not LLaVA's stream.
        openai_type, openai_code: fields of OpenAI's error object.
        llava_code: `error_code` of LLaVA's: 1 the engine raised, 2 no worker, 3 the worker failed or timed out.
        retryable: the same request may succeed later, unchanged.
    """

    status: HTTPStatus
    openai_type: str
    openai_code: str
    llava_code: int
    retryable: bool


MEANINGS: dict[type[ServiceError], Meaning] = {
    BadRequestError: Meaning(HTTPStatus.BAD_REQUEST, "invalid_request_error", "invalid_request", 1, False),
    NoSuchPathError: Meaning(HTTPStatus.NOT_FOUND, "invalid_request_error", "not_found", 1, False),
    WrongMethodError: Meaning(HTTPStatus.METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", 1, False),
    RequestTooLargeError: Meaning(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "invalid_request_error", "request_too_large", 1, False
    ),
    LoopError: Meaning(HTTPStatus.LOOP_DETECTED, "invalid_request_error", "loop_detected", 1, False),
    EngineRefusedError: Meaning(HTTPStatus.BAD_REQUEST, "invalid_request_error", "engine_refused", 1, False),
    ResponseNotFoundError: Meaning(HTTPStatus.NOT_FOUND, "invalid_request_error", "response_not_found", 1, False),
    PreviousResponseNotFoundError: Meaning(
        HTTPStatus.BAD_REQUEST, "invalid_request_error", "previous_response_not_found", 1, False
    ),
    ModelNotFoundError: Meaning(HTTPStatus.NOT_FOUND, "invalid_request_error", "model_not_found", 2, True),
    WorkerNotFoundError: Meaning(HTTPStatus.NOT_FOUND, "invalid_request_error", "worker_not_found", 2, True),
    NotToldError: Meaning(HTTPStatus.NOT_IMPLEMENTED, "invalid_request_error", "not_told", 1, False),
    AddressRefusedError: Meaning(HTTPStatus.FORBIDDEN, "permission_error", "address_refused", 1, False),
    QueueFullError: Meaning(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", 3, True),
    OverloadedError: Meaning(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", "overloaded", 3, True),
    BrokerUnavailableError: Meaning(HTTPStatus.SERVICE_UNAVAILABLE, "server_error", "broker_unavailable", 3, True),
    DeadlineError: Meaning(HTTPStatus.GATEWAY_TIMEOUT, "server_error", "deadline_exceeded", 3, True),
    EngineError: Meaning(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "engine_error", 1, False),
    AnswerTooLargeError: Meaning(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "answer_too_large", 1, False),
    WorkerLostError: Meaning(HTTPStatus.BAD_GATEWAY, "server_error", "worker_lost", 3, True),
    PoisonError: Meaning(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "killed_workers", 3, False),
    ShuttingDownError: Meaning(HTTPStatus.SERVICE_UNAVAILABLE, "server_error", "shutting_down", 3, True),
    InternalError: Meaning(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "internal_error", 3, False),
}


REMEDIES: dict[type[ServiceError], str] = {
    BadRequestError: "Correct the request: the controller's page /docs has the form of each.",
    NoSuchPathError: "Correct the path: the controller's page /docs has all of them.",
    WrongMethodError: "Use the method that the controller's page /docs has for this path.",
    RequestTooLargeError: "Send less, or smaller images.",
    LoopError: "Look at which controllers are workers of which: docs/nesting.md.",
    EngineRefusedError: "Correct what the engine complains of.",
    ResponseNotFoundError: "Ask again: responses are kept for the controller's --response-ttl, and less under load.",
    PreviousResponseNotFoundError: "Send the whole conversation as the input.",
    ModelNotFoundError: "Ask for a model that is served, or start a worker with this one.",
    WorkerNotFoundError: "Ask for the model instead of one worker.",
    NotToldError: "Give the worker's add_model what is lacking: count_tokens, conversation.",
    AddressRefusedError: "Allow the address with the controller's --allow-http-workers.",
    QueueFullError: "Send fewer requests at once, or add workers.",
    OverloadedError: "Send fewer or smaller requests at once, or raise the controller's --max-inflight-bytes.",
    BrokerUnavailableError: "The controller's page /readyz tells when requests are taken again.",
    DeadlineError: "Ask for less, add workers, or raise the controller's --request-timeout.",
    EngineError: "Look at the worker's log under the request's id.",
    AnswerTooLargeError: "Ask for less, or raise the controller's --response-bytes.",
    WorkerLostError: "Send the request again.",
    PoisonError: "Do not send it again; look at the logs of these workers.",
    ShuttingDownError: "Another controller may take it at once.",
    InternalError: "Look at the controller's log under the request's id.",
}
"""What to do about each."""

_WITH_RETRY_AFTER = frozenset(
    {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


def meaning_of(error: ServiceError) -> Meaning:
    """The row of the table for this error."""
    return MEANINGS[type(error)]


def code_of(error: ServiceError) -> str:
    """What OpenAI's clients know it by: the engine's own word for a refusal, where it has one."""
    if isinstance(error, EngineRefusedError) and error.code:
        return error.code
    return meaning_of(error).openai_code


def retry_seconds(error: ServiceError) -> int | None:
    """Whole seconds, 1 or more, that the client is told to wait; None for an error that waiting does not mend."""
    if meaning_of(error).status not in _WITH_RETRY_AFTER:
        return None
    return max(1, math.ceil(DEFAULT_RETRY_AFTER if error.retry_after is None else error.retry_after))


def client_text(error: ServiceError) -> str:
    """All that a client is told: what happened to which request and where, when to try again, what to do."""
    sentence = str(error).rstrip()
    if not sentence.endswith((".", "!", "?")):
        sentence += "."
    seconds = retry_seconds(error)
    again = "" if seconds is None else f" Try again in {seconds} s."
    return f"{sentence}{again} {REMEDIES[type(error)]}"
