"""Every error that a client can see, and the one table of what each means in the protocols that we speak.

    ServiceError
    ├── BadRequestError          the request itself is wrong
    │   ├── RequestTooLargeError
    │   └── EngineRefusedError   the engine says that it is the request's own fault
    ├── ModelNotFoundError       no worker serves this model
    ├── WorkerNotFoundError      an address names a worker that is not here
    ├── AddressRefusedError      an HTTP worker at an address that may not register
    ├── QueueFullError           the model's queue is at its bound
    ├── OverloadedError          this controller holds as many bytes as it may
    ├── BrokerUnavailableError   the broker is away, or holds its publishers back
    ├── DeadlineError            the request's time is up
    ├── EngineError              the engine raised
    ├── WorkerLostError          the worker died, and the request could not move to another
    ├── PoisonError              the request was alone on each of several workers when they died
    ├── ShuttingDownError        this controller leaves
    └── InternalError            a bug of this controller

A text says what happened, to which model, worker and request, at which stage, and what to do.
"""

from http import HTTPStatus

from msgspec import Struct


class ServiceError(Exception):
    """Something that the client is told. `str(error)` is a sentence for people.

    Attributes:
        retry_after: seconds after which it may be worth trying again, for `Retry-After`; None where it is not.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequestError(ServiceError):
    """The request cannot be understood."""


class RequestTooLargeError(BadRequestError):
    """The body is larger than what a message may be."""


class EngineRefusedError(BadRequestError):
    """The engine refused the request: no worker could serve it."""


class ModelNotFoundError(ServiceError):
    """No worker serves this model."""


class WorkerNotFoundError(ServiceError):
    """The worker that the request asks for is not here."""


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
    RequestTooLargeError: Meaning(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "invalid_request_error", "request_too_large", 1, False
    ),
    EngineRefusedError: Meaning(HTTPStatus.BAD_REQUEST, "invalid_request_error", "engine_refused", 1, False),
    ModelNotFoundError: Meaning(HTTPStatus.NOT_FOUND, "invalid_request_error", "model_not_found", 2, True),
    WorkerNotFoundError: Meaning(HTTPStatus.NOT_FOUND, "invalid_request_error", "worker_not_found", 2, True),
    AddressRefusedError: Meaning(HTTPStatus.FORBIDDEN, "permission_error", "address_refused", 1, False),
    QueueFullError: Meaning(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", 3, True),
    OverloadedError: Meaning(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", "overloaded", 3, True),
    BrokerUnavailableError: Meaning(HTTPStatus.SERVICE_UNAVAILABLE, "server_error", "broker_unavailable", 3, True),
    DeadlineError: Meaning(HTTPStatus.GATEWAY_TIMEOUT, "server_error", "deadline_exceeded", 3, True),
    EngineError: Meaning(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "engine_error", 1, False),
    WorkerLostError: Meaning(HTTPStatus.BAD_GATEWAY, "server_error", "worker_lost", 3, True),
    PoisonError: Meaning(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "killed_workers", 3, False),
    ShuttingDownError: Meaning(HTTPStatus.SERVICE_UNAVAILABLE, "server_error", "shutting_down", 3, True),
    InternalError: Meaning(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", "internal_error", 3, False),
}


def meaning_of(error: ServiceError) -> Meaning:
    """The row of the table for this error."""
    return MEANINGS[type(error)]


REMEDIES: dict[type[ServiceError], str] = {
    BadRequestError: "Correct the request; /docs has the form of each.",
    RequestTooLargeError: "Send less, or smaller images.",
    EngineRefusedError: "Correct what the engine names.",
    ModelNotFoundError: "Ask for a served model, or start a worker with this one.",
    WorkerNotFoundError: "Ask for the model instead of one worker.",
    AddressRefusedError: "Allow the address with --allow-http-workers.",
    QueueFullError: "Try again after Retry-After, or add workers.",
    OverloadedError: "Try again after Retry-After, or raise --max-inflight-bytes.",
    BrokerUnavailableError: "Try again after Retry-After; /readyz has the reason.",
    DeadlineError: "Try again, ask for less, or raise --request-timeout.",
    EngineError: "Look at the worker's log under the request's id.",
    WorkerLostError: "Send the request again.",
    PoisonError: "Do not send it again; look at the logs of the workers.",
    ShuttingDownError: "Try again: another controller may serve you.",
    InternalError: "Look at the controller's log under the request's id.",
}
"""What to do about each."""
