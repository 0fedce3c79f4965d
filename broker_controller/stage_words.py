"""Where a request was when it failed, in the words that its client reads. Pure; used by `lifecycle`.

What is counted are chunks: an engine may put several tokens into one.
"""

from broker_controller.decisions import Stage
from broker_controller.errors import NOT_QUEUED


def where(stage: Stage, *, worker: str, chunks: int, queued: bool) -> str:
    """The stage of a request.

    Args:
        worker: who has it, or had it last; "" where nobody has had it yet.
        chunks: of its answer that have come.
        queued: whether the broker has ever taken it.
    """
    match stage:
        case Stage.RUNNING:
            return f"on worker {worker!r} after {_count(chunks)}" if chunks else f"starting on worker {worker!r}"
        case Stage.OVER if worker:
            return f"at the end of the answer of worker {worker!r}"
        case Stage.WAITING if chunks:
            return f"between two workers after {_count(chunks)}, the last was {worker!r}"
        case Stage.WAITING if worker:
            return f"in the queue again, the last worker was {worker!r}"
        case _:
            return "in the queue" if queued else NOT_QUEUED


def progress(chunks: int) -> str:
    """How far the answer was, where it is not the worker's that has it now."""
    return f"after {_count(chunks)}" if chunks else "starting"


def _count(chunks: int) -> str:
    return "1 chunk" if chunks == 1 else f"{chunks} chunks"
