"""What has been heard of the worker that runs a request. Pure; used by `lifecycle`, a new one for each run.

Seconds, of the clock that stands still while the broker holds publishers back.
"""

from enum import Enum, auto


class Presence(Enum):
    """Whether a copy that comes to another worker is needed."""

    SURE = auto()
    """There is none that we know of; if one comes, the worker is gone."""
    DOUBTED = auto()
    """Its connection or ours was lost: a copy may be in the queue, and the worker be dead."""
    BACK = auto()
    """It has spoken since: the copy is not needed, whoever gets it."""


class Contact:
    """With one worker, since it started the request."""

    __slots__ = (
        "_lost_at",
        "last_progress",
        "left_in_order",
        "presence",
    )

    def __init__(self, watched: float) -> None:
        self.presence = Presence.SURE
        self.left_in_order = False
        """It said goodbye, or gave its name up: it finishes what it has."""
        self.last_progress = watched
        """When it last showed that it works, or was not expected to."""
        self._lost_at: float | None = None

    @property
    def is_lost(self) -> bool:
        """Its connection closed without a goodbye, and it has not been heard of since."""
        return self._lost_at is not None

    def lost_for(self, watched: float) -> float:
        """Seconds since it was lost; 0 while it is not."""
        return 0.0 if self._lost_at is None else watched - self._lost_at

    def silent_for(self, watched: float) -> float:
        """Seconds without a sign that it works."""
        return watched - self.last_progress

    def on_obituary(self, watched: float, *, in_order: bool) -> None:
        """Its connection closed; `in_order` when it said goodbye before."""
        self.presence = Presence.DOUBTED
        if in_order:
            # Who gave its name up finishes what it has; from who has really gone the copy comes back.
            self.left_in_order = True
        elif self._lost_at is None:
            self._lost_at = watched

    def on_our_reconnect(self) -> None:
        """What it said in the meantime did not reach us."""
        self.presence = Presence.DOUBTED

    def on_announce(self, *, requeued: bool = False) -> None:
        """It speaks. `requeued`: its copy went back to the queue, though its connection stood."""
        # The copy may still lie there, for want of a free slot: whoever gets it is not to begin again.
        if requeued or self.presence is Presence.DOUBTED:
            self.presence = Presence.BACK
        self._lost_at = None
