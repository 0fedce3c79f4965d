"""What `outbox` tells `custody`: how the answers fare. So neither has to know the other."""

from typing import Protocol

from broker_wire.messages import Answered, Ask, GivenBack, Gone, Progress, Started
from workers_shim.outgoing import Outgoing
from workers_shim.tombstones import Key

Note = Started | Ask | Gone | GivenBack | Progress | Answered
"""A frame that is no part of an answer. It is not kept: one that was lost is sent again only if it still matters."""


class OutboxListener(Protocol):
    """What `custody` wants to know. All on the broker's loop."""

    def on_released(self, outgoing: Outgoing) -> None:
        """The engine's thread has come back."""

    def on_settled(self, outgoing: Outgoing) -> None:
        """The last frame and all before it are in the controller's queue."""

    def on_held(self, outgoing: Outgoing) -> None:
        """A part of it came back: its controller has no queue for now."""

    def on_abandoned(self, outgoing: Outgoing) -> None:
        """It was dropped: its controller has been gone for the grace time."""

    def on_note_returned(self, key: Key, note: Started | Ask) -> None:
        """The controller of this request has no queue any more."""

    def on_start_confirmed(self, key: Key, note: Started) -> None:
        """The controller's queue has the news of this start."""

    def is_current(self, key: Key, note: Started | Ask) -> bool:
        """Whether a note that was lost on the way still says what is so."""
