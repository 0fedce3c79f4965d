"""What the fleet's words mean for one request: whether its model can do that, to which queue it goes first, whether
anybody is there who could take it, and whether it has to show progress. Used by `gateway`."""

from collections.abc import Callable

from broker_controller.decisions import Place
from broker_controller.errors import BadRequestError, ModelNotFoundError, WorkerNotFoundError
from broker_controller.lifecycle import RequestLife
from broker_controller.registry import Registry
from broker_controller.request_sender import Submission
from broker_controller.session_key import SessionKey
from broker_controller.worker_record import RecordState, WorkerRecord
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
        if needed is Ability.EMBEDDING and _is_served_over_http(submission.model, registry):
            # Whether such a worker makes embeddings it does not tell when it registers: it is asked.
            return
        can = ", ".join(sorted(abilities))
        raise BadRequestError(f"the model cannot do {needed}, it can do {can}")


def _is_served_over_http(model: str, registry: Registry) -> bool:
    return any(record.address is not None and model in record.model_names for record in registry.workers())


def choose_place(
    submission: Submission, registry: Registry, choose_worker: Callable[[str, SessionKey | None], str | None]
) -> tuple[Place, str]:
    """The kind of queue, and the worker whose it is ("" for the model's).

    Raises: WorkerNotFoundError, ModelNotFoundError.
    """
    wanted = submission.pinned_worker
    if wanted is None:
        worker = choose_worker(submission.model, submission.session)
        return (Place.OWN, worker) if worker else (Place.MODEL, "")
    record = registry.get(wanted)
    if record is None:
        raise WorkerNotFoundError(f"there is no worker {wanted!r}")
    if submission.model not in record.model_names:
        served = ", ".join(sorted(record.model_names)) or "none"
        raise ModelNotFoundError(f"worker {wanted!r} does not serve the model; its models: {served}")
    return Place.PINNED, wanted


def expects_progress(submission: Submission, worker: WorkerRecord | None) -> bool:
    """Whether this worker, which runs the request, is stalled when it is silent: not where an answer is one piece."""
    if submission.operation is Operation.EMBEDDING:
        return False
    cards = () if worker is None else worker.models
    return all(card.streams for card in cards if card.name == submission.model)


class Glance:
    """Who is there at one moment, for any number of requests."""

    def __init__(self, registry: Registry, watched: float) -> None:
        """`watched`: seconds, the clock of expiry."""
        self._registry = registry
        self._watched = watched
        self._served: dict[str, bool] = {}

    def has_worker(self, life: RequestLife) -> bool:
        """Whether anybody could take it; of a pinned request, whether its worker could."""
        if life.place is Place.PINNED:
            record = self._registry.get(life.target)
            return record is not None and record.state is RecordState.READY
        if life.model not in self._served:
            # An HTTP worker that is not bridged at this moment is away, though it is registered.
            workers = self._registry.workers_for(life.model, self._watched)
            self._served[life.model] = any(record.instance for record in workers)
        return self._served[life.model]

    def may_have_worker(self, life: RequestLife) -> bool:
        """Whether anybody can take it now or soon: an HTTP worker that has just registered is bridged in a moment."""
        if self.has_worker(life):
            return True
        return life.place is Place.MODEL and bool(self._registry.workers_for(life.model, self._watched))
