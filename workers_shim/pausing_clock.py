"""A clock for waiting times that the broker's own trouble must not use up. Pure but for the clock underneath.

While the broker holds publishers back, or is away, nobody can give the sign that a grace time waits for; so the clock
stands still then, and a little longer, until everybody had a chance to speak again.

The broker tells of an alarm only whoever publishes. A worker whose engines yield publishes all the time, and one that
has asked has published its question. Of the rest, whose streams are held or complete, the heartbeat every 5 s is soon
enough: all that it waits for is the grace time of 30 s, and of that an alarm then uses up one heartbeat's interval.
"""

import time
from collections.abc import Callable


class PausingClock:
    """Seconds that count. `after` is for how long it stands still once the trouble is over."""

    def __init__(self, after: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._after = after
        self._clock = clock
        self._lost = 0.0
        self._stopped_at: float | None = None
        self._goes_on_at: float | None = None

    def now(self) -> float:
        """Monotonic seconds, without those that it stood still."""
        time_now = self._clock()
        if self._stopped_at is None:
            return time_now - self._lost
        if self._goes_on_at is None or time_now < self._goes_on_at:
            return self._stopped_at - self._lost
        self._lost += self._goes_on_at - self._stopped_at
        self._stopped_at = self._goes_on_at = None
        return time_now - self._lost

    def stop(self) -> None:
        """Trouble begins; idempotent."""
        self.now()
        self._goes_on_at = None
        if self._stopped_at is None:
            self._stopped_at = self._clock()

    def go_on(self) -> None:
        """Trouble is over; idempotent."""
        if self._stopped_at is not None and self._goes_on_at is None:
            self._goes_on_at = self._clock() + self._after
