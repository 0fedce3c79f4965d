"""A clock that stands still while nobody can be heard: no worker or stream may expire because of the broker."""

import time
from collections.abc import Callable

from broker_controller.links import Links

SETTLE = 5.0
"""Seconds that it stands still afterwards, one heartbeat interval: what waited has to arrive first."""


class WatchedClock:
    """Call it for monotonic seconds, less those in which the broker was away or held its publishers back."""

    def __init__(self, base: Callable[[], float] = time.monotonic) -> None:
        self._base = base
        self._stopped_for = 0.0
        self._stopped_at: float | None = None
        self._runs_again_at: float | None = None

    def follow(self, links: Links) -> None:
        """Stop when a connection is lost or blocked. Either trouble may outlast the other: run when both are over."""

        def look() -> None:
            if links.up and not links.blocked:
                self.run()

        links.on_down.append(self.stop)
        links.on_blocked.append(lambda blocked: self.stop() if blocked else look())
        links.on_both_up.append(look)

    def stop(self) -> None:
        """The broker holds publishers back, or is away."""
        self()
        if self._stopped_at is None:
            self._stopped_at = self._base()
        self._runs_again_at = None

    def run(self) -> None:
        """It is back; after `SETTLE` the clock goes on."""
        if self._stopped_at is not None and self._runs_again_at is None:
            self._runs_again_at = self._base() + SETTLE

    def __call__(self) -> float:
        """The time for stalls, grace and expiry."""
        now = self._base()
        if self._stopped_at is None:
            return now - self._stopped_for
        if self._runs_again_at is None or now < self._runs_again_at:
            return self._stopped_at - self._stopped_for
        self._stopped_for += self._runs_again_at - self._stopped_at
        self._stopped_at = self._runs_again_at = None
        return now - self._stopped_for
