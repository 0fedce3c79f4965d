"""How long requests wait for a slot: a rate of finished requests for each model, and what follows from it.

Pure; the time is passed in (seconds, monotonic). Used by `gateway`. The rate is that of this controller alone: where
several share a fleet, the times are upper bounds.
"""

import math

from msgspec import Struct

MEMORY = 30.0
"""Seconds after which a finished request counts a third."""
MIN_RETRY, MAX_RETRY = 1.0, 120.0
"""Seconds. Whoever is told less comes back for nothing; whoever is told more has long given up."""
UNKNOWN_RETRY = 5.0
"""Seconds that a client is told to wait while nothing has been measured."""


class Outlook(Struct, frozen=True):
    """Where a request waits, about: its place, how many wait there, and the seconds until it starts, if known."""

    place: int
    length: int
    seconds: float | None


class FinishRate:
    """Requests finished a second, the latest counting most."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._at: float | None = None
        self._since = 0.0

    def note(self, now: float) -> None:
        """One finished."""
        if self._at is None:
            self._since = now
        self._weight = self._decayed(now) + 1.0
        self._at = now

    def per_second(self, now: float) -> float | None:
        """None until two have finished, and when so long ago that it says nothing any more."""
        watched_for = now - self._since
        if self._at is None or watched_for <= 0 or now - self._at > 10 * MEMORY:
            return None
        # The first one only starts the clock; and a young average has not seen its whole memory yet.
        first = math.exp(-watched_for / MEMORY)
        weight = self._decayed(now) - first
        return weight / (MEMORY * (1.0 - first)) if weight > 1e-9 else None

    def _decayed(self, now: float) -> float:
        return 0.0 if self._at is None else self._weight * math.exp(-(now - self._at) / MEMORY)


class Forecasts:
    """The rates of all models."""

    def __init__(self) -> None:
        self._rates: dict[str, FinishRate] = {}

    def note_finished(self, model: str, now: float) -> None:
        """One of its requests finished: a place in the queue was freed for it."""
        self._rates.setdefault(model, FinishRate()).note(now)

    def seconds_for(self, model: str, places: int, now: float) -> float | None:
        """Until so many more have been served; None when unknown."""
        rate = self._rates.get(model)
        measured = None if rate is None else rate.per_second(now)
        return None if measured is None else places / measured

    def retry_after(self, model: str, length: int, limit: int, now: float) -> float:
        """Seconds until a queue of this length and bound has a place again, 1 to 120."""
        seconds = self.seconds_for(model, max(1, length - limit + 1), now)
        return UNKNOWN_RETRY if seconds is None else _bounded(seconds)

    def after_deadline(self, model: str, length: int, waited: float, now: float) -> float:
        """Seconds until a queue of this length is served, 1 to 120, for a request whose time is up.

        While no rate is known, as long as it `waited` itself: whoever comes back at once would wait as long again.
        """
        seconds = self.seconds_for(model, length, now)
        return _bounded(waited if seconds is None else seconds)

    def outlook(self, model: str, own_place: int, own_length: int, length: int, now: float) -> Outlook:
        """The place in the whole queue, by the order of this controller's own requests.

        Other controllers' requests are taken to lie evenly between ours; `length` is a reading up to a second old.
        """
        length = max(length, own_length)
        place = max(own_place, round(own_place * length / own_length))
        return Outlook(place, length, self.seconds_for(model, place, now))


def _bounded(seconds: float) -> float:
    return min(MAX_RETRY, max(MIN_RETRY, seconds))
