"""Whether a request is what kills its workers. Pure; one for each request, used by `lifecycle`.

A worker that dies takes all its requests with it, and one of them may be the cause. So all of them become suspect, and
blamed is only one that was suspect already: a worker never runs two suspects at a time, so it was the only one there.
"""

OBITUARY_DELAY = 2.0
"""Seconds by which an obituary may be behind the redelivery that the same death caused."""


class Suspicion:
    """What is known against one request. A method that returns True says: it has killed as many as it may."""

    def __init__(self, max_kills: int) -> None:
        self.suspect = False
        self._max_kills = max_kills
        self._killed: set[str] = set()
        self._left_behind = ""
        self._left_at = 0.0

    @property
    def kills(self) -> int:
        """Workers that died while they ran it as the one suspect."""
        return len(self._killed)

    def on_left(self, instance: str, now: float, *, is_dead: bool) -> bool:
        """Its copy came back from a worker that did not say goodbye.

        `is_dead`: an obituary was seen. Without one the worker may have given the request back, alive; the obituary
        may also be a few milliseconds behind, so it is waited for.
        """
        was_suspect, self.suspect = self.suspect, True
        if not was_suspect:
            return False
        if is_dead:
            return self._blame(instance)
        self._left_behind, self._left_at = instance, now
        return False

    def on_obituary(self, instance: str, now: float) -> bool:
        """A worker that it does not run on any more is dead."""
        if instance != self._left_behind or now - self._left_at >= OBITUARY_DELAY:
            return False
        self._left_behind = ""
        return self._blame(instance)

    def on_return(self, instance: str) -> None:
        """The worker was not dead: its connection was cut."""
        self._killed.discard(instance)

    def _blame(self, instance: str) -> bool:
        self._killed.add(instance)
        return self.kills >= self._max_kills
