"""What a controller says of one of its requests, and what that does to the copy that this worker holds, or does not.

Called by `control`. A message names an attempt where it matters: an order for an older one leaves a newer one alone.
"""

import time

from broker_wire.messages import Cancel, Done, Go, Gone, Resend, Stop
from workers_shim.controller_links import ControllerLinks
from workers_shim.custody import Custody
from workers_shim.held import Stage
from workers_shim.outbox import Outbox
from workers_shim.tombstones import Key, Tombstones


class Orders:
    """One a worker."""

    def __init__(self, custody: Custody, links: ControllerLinks, outbox: Outbox, tombstones: Tombstones) -> None:
        self._custody = custody
        self._links = links
        self._outbox = outbox
        self._tombstones = tombstones

    def go(self, message: Go) -> None:
        """The answer to an ask."""
        held = self._custody.find((message.controller, message.stream))
        if held is not None and held.stage is Stage.ASKING:
            self._custody.grant(held, message)
        elif held is None or held.attempt < message.attempt:
            # The copy that asked is gone, with its channel: the controller has to know that nobody runs this.
            self._outbox.note(message.controller, Gone(message.stream, message.attempt))
            if held is not None:
                self._custody.stop(held)

    def stop(self, message: Stop) -> None:
        """Not wanted, up to this attempt."""
        self._stop((message.controller, message.stream), message.attempt)

    def cancel(self, message: Cancel) -> None:
        """Not wanted at all, now or later."""
        key = (message.controller, message.stream)
        self._tombstones.bury(key, message.remaining, time.monotonic())
        self._stop(key, None)

    def done(self, message: Done) -> None:
        """The controller has everything of these."""
        for stream in message.streams:
            self._stop((message.controller, stream), None)

    def resend(self, message: Resend) -> None:
        """The controller lacks something of these."""
        for stream, attempt, seq in message.streams:
            key = (message.controller, stream)
            kept = self._links.find(key)
            if kept is not None and kept.attempt > attempt:
                continue
            held = self._custody.find(key)
            if held is not None and held.stage is Stage.APART and held.attempt == attempt:
                # It is granted, and there is nothing of it yet.
                continue
            if kept is None or kept.attempt < attempt or not kept.resend_from(seq):
                self._outbox.note(message.controller, Gone(stream, attempt))

    def pause(self, key: Key, paused: bool) -> None:
        """The client of this stream reads too slowly, or has caught up."""
        kept = self._links.find(key)
        if kept is not None:
            kept.pause(paused)

    def _stop(self, key: Key, attempt: int | None) -> None:
        """Up to this attempt, or all. What is over here is let go, too."""
        held = self._custody.find(key)
        if held is not None and (attempt is None or held.attempt <= attempt):
            self._custody.stop(held)
        kept = self._links.find(key)
        if kept is not None and (attempt is None or kept.attempt <= attempt):
            self._links.drop(kept)
            self._custody.on_change()
