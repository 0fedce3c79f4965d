"""Records of responses as they are written by several. Pure: the time is passed in, seconds of Unix."""

from broker_controller.errors import ServiceError, client_text, code_of
from broker_wire import codec
from broker_wire.messages import End, Ended, Record


def last_of(response_id: str, end: End | ServiceError | None, now: float) -> Ended:
    """The end of a response that its own controller answers; `end` is None where the client left before."""
    match end:
        case End():
            return Ended(response_id, 1, now, end=end)
        case ServiceError():
            return failed(response_id, 1, end, now)
        case None:
            return Ended(response_id, 1, now, "cancelled")


def failed(response_id: str, epoch: int, error: ServiceError, now: float) -> Ended:
    """The end of one that went wrong; of epoch 0 where nobody runs it."""
    return Ended(response_id, epoch, now, "failed", code=code_of(error), message=client_text(error))


def size_of(record: Record) -> int:
    """Bytes on their way to the log."""
    return len(codec.encode(record))
