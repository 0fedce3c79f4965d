"""Whether a model can do what is asked of it, and to which queue a new request goes first. Used by `gateway`."""

from collections.abc import Callable

from broker_controller.decisions import Place
from broker_controller.errors import BadRequestError, ModelNotFoundError, WorkerNotFoundError
from broker_controller.registry import Registry
from broker_controller.request_sender import Submission
from broker_wire.messages import Ability, Operation

NEEDED = {
    Operation.CHAT: Ability.CHAT,
    Operation.COMPLETION: Ability.COMPLETION,
    Operation.EMBEDDING: Ability.EMBEDDING,
}
"""What a model must be able to do. LLaVA's protocol asks for nothing in particular."""


def check_ability(submission: Submission, registry: Registry) -> None:
    """A model that nobody serves is not refused here: the broker knows those that were here until just now.

    Raises: BadRequestError.
    """
    needed = NEEDED.get(submission.operation)
    abilities = registry.abilities(submission.model)
    if needed is not None and abilities and needed not in abilities:
        can = ", ".join(sorted(abilities))
        raise BadRequestError(f"the model cannot do {needed}, it can do {can}")


def choose_place(
    submission: Submission, registry: Registry, choose_worker: Callable[[str], str | None]
) -> tuple[Place, str]:
    """The kind of queue, and the worker whose it is ("" for the model's).

    Raises: WorkerNotFoundError, ModelNotFoundError.
    """
    wanted = submission.pinned_worker
    if wanted is None:
        worker = choose_worker(submission.model)
        return (Place.OWN, worker) if worker else (Place.MODEL, "")
    record = registry.get(wanted)
    if record is None:
        raise WorkerNotFoundError(f"there is no worker {wanted!r}")
    if submission.model not in record.model_names:
        served = ", ".join(sorted(record.model_names)) or "none"
        raise ModelNotFoundError(f"worker {wanted!r} does not serve the model; its models: {served}")
    return Place.PINNED, wanted
