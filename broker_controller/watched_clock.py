"""A clock that stands still while the broker holds its publishers back: nobody may expire because of an alarm. Pure."""

SETTLE = 5.0
"""Seconds that it stands still after the alarm, one heartbeat interval: what waited has to arrive first."""


class WatchedClock:
    """Monotonic seconds, less those in which nothing could be heard of anybody."""

    def __init__(self) -> None:
        self._stopped_for = 0.0
        self._stopped_at: float | None = None
        self._runs_again_at: float | None = None

    def stop(self, now: float) -> None:
        """The broker holds publishers back, or is away."""
        self.read(now)
        if self._stopped_at is None:
            self._stopped_at = now
        self._runs_again_at = None

    def run(self, now: float) -> None:
        """It takes messages again; after `SETTLE` the clock goes on."""
        if self._stopped_at is not None and self._runs_again_at is None:
            self._runs_again_at = now + SETTLE

    def read(self, now: float) -> float:
        """The time for stalls, grace and expiry."""
        if self._stopped_at is None:
            return now - self._stopped_for
        if self._runs_again_at is None or now < self._runs_again_at:
            return self._stopped_at - self._stopped_for
        self._stopped_for += self._runs_again_at - self._stopped_at
        self._stopped_at = self._runs_again_at = None
        return now - self._stopped_for
