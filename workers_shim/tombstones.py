"""Streams that were cancelled before this worker met them: whoever takes a copy from a queue later drops it.

Pure: times are passed in (monotonic seconds). Bounded in number and in time, since a cancel is a broadcast and most
workers never meet the stream.
"""

# A cancelled request that is still queued; model queues hold 2,000 by default, so this is several of them.
MAX_TOMBSTONES = 10_000
# A remaining time from the wire is not trusted beyond a day.
MAX_SECONDS = 24 * 3600.0

Key = tuple[str, int]
"""Controller and stream: what names a request on the wire."""


class Tombstones:
    """Kept until the request's deadline, the oldest let go first when there are too many."""

    def __init__(self, bound: int = MAX_TOMBSTONES) -> None:
        self._bound = bound
        self._until: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def bury(self, key: Key, remaining: float, now: float) -> None:
        """Remember `key` for `remaining` seconds; a time that is no number of seconds counts as the longest."""
        seconds = remaining if 0 <= remaining <= MAX_SECONDS else MAX_SECONDS
        self._until.pop(key, None)
        self._until[key] = now + seconds
        if len(self._until) > self._bound:
            del self._until[next(iter(self._until))]

    def holds(self, key: Key, now: float) -> bool:
        """Whether the request was cancelled."""
        until = self._until.get(key)
        return until is not None and now < until

    def sweep(self, now: float) -> None:
        """Let go of those whose time is over."""
        for key in [key for key, until in self._until.items() if until <= now]:
            del self._until[key]
