"""Counts what arrives and cannot be used, and says so once a second at most. Nothing stops because of it."""

import logging
import time
from collections import Counter
from collections.abc import Callable

_log = logging.getLogger(__name__)

LOG_INTERVAL = 1.0
"""Seconds between two lines of one place: a flood of garbage must not become a flood of log."""


class GarbageBin:
    """One a process. `counts` has the messages dropped, by where they came from."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._last_logged: dict[str, float] = {}
        self._unlogged: Counter[str] = Counter()

    def drop(self, place: str, reason: object) -> None:
        """Count one message from `place` (the exchange or queue's role), and perhaps log it."""
        self.counts[place] += 1
        self._unlogged[place] += 1
        now = self._clock()
        if now - self._last_logged.get(place, -LOG_INTERVAL) < LOG_INTERVAL:
            return
        self._last_logged[place] = now
        _log.warning("garbage dropped place=%s count=%d reason=%s", place, self._unlogged.pop(place), reason)
