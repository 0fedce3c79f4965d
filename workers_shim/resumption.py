"""How an answer goes on that another worker began: from its text, by repeating it, or not at all. Used by `run`."""

from broker_wire.messages import ResumeMode
from workers_shim.replay import Replay
from workers_shim.request import Request
from workers_shim.served_model import ServedModel
from workers_shim.stream import Assignment


class NotResumableError(Exception):
    """The engine cannot go on from the middle."""


def prepare_resume(assignment: Assignment, model: ServedModel, request: Request) -> Replay | None:
    """Gives the request the text that it goes on after, or returns what the repetition is compared with.

    A client's wish counts more than what the model is declared to do: what is repeated is compared in any case.
    Raises: NotResumableError, with a sentence.
    """
    ways = model.resume_modes(request)
    wish = assignment.generate.resume
    if wish is ResumeMode.PREFIX and wish not in ways:
        raise NotResumableError(f"model {model.name!r} cannot go on from a text, as X-Resume asks for")
    if wish is not None:
        ways = (wish,)
    for way in ways:
        if way is ResumeMode.REPLAY:
            replay = Replay(assignment.text, assignment.choices)
            return None if replay.complete else replay
        if way is ResumeMode.PREFIX and len(request.inputs) <= 1 and _is_one_text(assignment):
            request.resume_text = assignment.text
            return None
    if ResumeMode.PREFIX in ways:
        raise NotResumableError(
            f"model {model.name!r} goes on from a text, and the client has more than the text of one answer"
        )
    raise NotResumableError(f"model {model.name!r} cannot go on from the middle of this answer")


def _is_one_text(assignment: Assignment) -> bool:
    """Logprobs beside it are no hindrance: those of the rest follow them."""
    return bool(assignment.text) and not any(had.index or had.chunks or had.ended for had in assignment.choices)
