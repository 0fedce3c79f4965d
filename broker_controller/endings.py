"""The errors that end a request: which one for which cause, and in which words. Pure; used by `lifecycle`.

Each function has the request's subject: which one it is, and where it was when that happened.
"""

from broker_controller.assembler import MAX_REPEATED
from broker_controller.decisions import Place
from broker_controller.errors import (
    DeadlineError,
    EngineError,
    EngineRefusedError,
    ModelNotFoundError,
    PoisonError,
    QueueFullError,
    ServiceError,
    Subject,
    WorkerLostError,
    WorkerNotFoundError,
)
from broker_wire.messages import Failed, FailureKind, ResumeMode

_OF_FAILURE: dict[FailureKind, type[ServiceError]] = {
    FailureKind.ENGINE: EngineError,
    FailureKind.LOST: WorkerLostError,
    FailureKind.DIVERGED: WorkerLostError,
    FailureKind.NOT_RESUMABLE: WorkerLostError,
    FailureKind.DEADLINE: DeadlineError,
}


def no_queue(subject: Subject, place: Place, target: str, *, has_begun: bool) -> ServiceError:
    """No queue was bound for it. `target`: the worker that it was for."""
    if has_begun:
        return WorkerLostError("no other worker serves the model", subject=subject)
    if place is Place.PINNED:
        return WorkerNotFoundError(f"worker {target!r} is not here", subject=subject)
    return ModelNotFoundError("no worker serves it", subject=subject)


def queue_full(subject: Subject, retry_after: float) -> ServiceError:
    """`retry_after`: seconds until there may be a place again."""
    text = "it was not taken, as many requests as may wait are waiting"
    return QueueFullError(text, retry_after=retry_after, subject=subject)


def nobody_came(subject: Subject, place: Place, target: str, seconds: float, *, has_begun: bool) -> ServiceError:
    """All who could take it had left, for so many seconds. `target`: the worker that it was for."""
    error_type: type[ServiceError] = ModelNotFoundError
    who = "all workers of the model have left, and none came back"
    if place is Place.PINNED:
        error_type = WorkerNotFoundError
        who = f"worker {target!r} has left, and did not come back"
    if has_begun:
        error_type = WorkerLostError
    return error_type(f"{who} in {seconds:g} s", subject=subject)


def time_up(subject: Subject, seconds: float) -> ServiceError:
    """Its deadline has come, `seconds` after it was submitted."""
    return DeadlineError(f"its time of {seconds:g} s was up", subject=subject)


def failed(subject: Subject, worker: str, frame: Failed) -> ServiceError:
    """The worker said so in its last frame, which is not `NOT_SERVED`: that ends no request."""
    said = f"worker {worker!r} says: {frame.message}"
    if frame.kind is FailureKind.REQUEST:
        return EngineRefusedError(said, subject=subject, code=frame.code, param=frame.param)
    return _OF_FAILURE[frame.kind](said, subject=subject)


def died_too_often(subject: Subject, worker: str, frame: Failed, deaths: int) -> ServiceError:
    """The worker said that what is behind it died, as that of others had before: `deaths` in all."""
    what = f"what ran this answer has died {deaths} times, and it is not tried again"
    return WorkerLostError(f"worker {worker!r} says: {frame.message}; {what}", subject=subject)


def poison(subject: Subject, workers: tuple[str, ...]) -> ServiceError:
    """The workers that died while they ran it alone, in order."""
    they = f"worker {workers[0]}" if len(workers) == 1 else f"workers {', '.join(workers)}"
    whose = "it" if len(workers) == 1 else "they"
    return PoisonError(f"{they} died while {whose} ran this request, and it is not tried again", subject=subject)


def moved_too_often(subject: Subject, reason: str, moves: int) -> ServiceError:
    """`reason`: why it would have to move once more."""
    return WorkerLostError(f"{reason}, and it had moved {moves} times already", subject=subject)


def may_not_move(subject: Subject, reason: str) -> ServiceError:
    """A pinned one. `reason`: why it would have to move."""
    return WorkerLostError(f"{reason}, and it was for this worker only", subject=subject)


def cannot_go_on(subject: Subject, reason: str, resume: ResumeMode | None) -> ServiceError:
    """Its answer has begun, and nobody may go on with it. `reason`: why it would have to move."""
    why = f"more than {MAX_REPEATED} characters and bytes of it have been sent, too many to repeat elsewhere"
    if resume is ResumeMode.NEVER:
        why = "it was asked for with X-Resume: never"
    return WorkerLostError(f"{reason} in the middle of the answer, and {why}", subject=subject)
