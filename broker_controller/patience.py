"""How long a request that waits is left alone, and what is due then. Pure; used by `lifecycle`, one for each wait.

A wait begins with the request, or when its worker lost it, and ends when a worker starts it. Seconds throughout, of the
clock that stands still while the broker holds publishers back.
"""

from enum import Enum, auto

from broker_controller.decisions import Limits, Place

UNTAKEN = {Place.OWN: 5.0, Place.RESUME: 2.0, Place.MODEL: 5.0}
"""Seconds after which a request is sent again that should be in its queue no more, and that nobody has spoken of.

Who takes one says so at once; but a frozen worker consumes as before, and what it was given would wait for the broker
to miss its heartbeats. A worker's own queue delivers at once or hands on to the model's; but what is dead-lettered to a
full queue is dropped, and nobody is told. Of the model's queue it was read that it is empty. In the queue of streams
that move one may have to wait for a slot: there it is twice as long each time."""
MAX_PAUSE = 5.0
"""Seconds, at most, between two tries while the queue is missing of a model that is served."""


class Due(Enum):
    """What is to be done for a request that waits."""

    NOTHING = auto()
    SAME_AGAIN = auto()
    """The broker refused the last publish: the same once more."""
    NEW_COPY = auto()
    """Whoever took it says nothing."""
    END = auto()
    """No worker came for it."""


class Patience:
    """The clocks of one wait."""

    __slots__ = (
        "_again_at",
        "_factor",
        "_is_refused",
        "_limits",
        "_returned_since",
        "_taken_since",
        "_without_worker_since",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._is_refused = False
        self._returned_since: float | None = None
        self._again_at = 0.0
        self._without_worker_since: float | None = None
        self._taken_since: float | None = None
        """As far as can be known, somebody has taken it."""
        self._factor = 1

    def on_publish(self) -> None:
        """It is sent to a queue."""
        self._is_refused = False
        self._taken_since = None

    def on_refused(self) -> None:
        """No queue took it, and that will pass: the next `look` says so."""
        self._is_refused = True

    def on_returned(self, place: Place, watched: float, *, is_served: bool) -> bool:
        """No queue was bound. True: somebody says that he serves it, so it will pass, however long that takes.

        A pinned one waits for the time of grace at most, as for its worker.
        """
        if self._returned_since is None:
            self._returned_since = watched
        missing_for = watched - self._returned_since
        self._is_refused = is_served and (place is not Place.PINNED or missing_for < self._limits.grace)
        # What is missing for long is asked for less often: it may be the body of each of thousands that is sent again.
        self._again_at = watched + min(MAX_PAUSE, missing_for)
        return self._is_refused

    def on_taken(self) -> None:
        """A queue has it. If that one goes, too, this is another wait."""
        self._returned_since = None

    def for_worker(self, place: Place) -> float:
        """Seconds that it waits while nobody is there who could take it; of a pinned one, while its worker is away."""
        return self._limits.grace if place is Place.PINNED else self._limits.worker_wait

    def look(self, place: Place, watched: float, *, has_worker: bool, is_queue_empty: bool) -> Due:
        """What is due now for what was sent to `place`.

        Args:
            has_worker: whether anybody is there who could take it.
            is_queue_empty: whether nothing was in the model's queue when it was last read.
        """
        if not has_worker:
            if self._without_worker_since is None:
                self._without_worker_since = watched
            is_over = watched - self._without_worker_since >= self.for_worker(place)
            return Due.END if is_over else Due.NOTHING
        self._without_worker_since = None
        if self._is_refused:
            return Due.SAME_AGAIN if watched >= self._again_at else Due.NOTHING
        if place is Place.PINNED or (place is Place.MODEL and not is_queue_empty):
            self._taken_since = None
            return Due.NOTHING
        if self._taken_since is None:
            self._taken_since = watched
        if watched - self._taken_since < UNTAKEN[place] * self._factor:
            return Due.NOTHING
        if place is Place.RESUME:
            self._factor *= 2
        return Due.NEW_COPY
