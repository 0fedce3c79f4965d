"""Whether a request is what kills its workers. Pure; one for each request, used by `lifecycle`. Seconds throughout.

A worker that dies takes all its requests with it, and one of them may be the cause. Most deaths have another one, so
after the first they all go on at once, wherever there is room. Who was there at two deaths in a row is run apart: a
worker runs at most one such request at a time, for the first seconds of its run, so that who dies then is known. These
seconds double with every death: what kills late is found as well, and two hundred innocents do not wait in line for
long. Charged is only the one that was apart when its worker died, and had begun: what runs apart begins when the broker
has the news of it, so that one which still waited there for another one is known as well.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

ValueT = TypeVar("ValueT")

FIRST_APART = 2.0
MAX_APART = 60.0
OBITUARY_DELAY = 2.0
"""An obituary may be so much behind the redelivery that the same death caused."""
MARGIN = 0.75
"""Of the time apart: the worker counts from its start, and we from the news of it, so the two must not meet."""

_NONE: Mapping[str, Any] = MappingProxyType({})


class Suspicion:
    """What is known against one request. A method that returns True says: it has killed as many as it may."""

    __slots__ = (
        "_deaths",
        "_doubtful",
        "_killed",
        "_max_kills",
        "_runs_since",
    )

    def __init__(self, max_kills: int) -> None:
        self._max_kills = max_kills
        # Not written to but replaced: of nearly all requests they stay these two, which are one for all.
        self._killed: Mapping[str, str] = _NONE
        """Names of the workers that are charged to it, by instance."""
        self._deaths = 0
        self._runs_since: float | None = None
        """None: it may run, and has not said that it does."""
        self._doubtful: Mapping[str, tuple[float, str, bool]] = _NONE
        """Where its copy came back from before any obituary: when, the worker's name, whether it was apart there."""

    @property
    def killed(self) -> tuple[str, ...]:
        """The workers that died while they ran it apart, in order. One that was started again may be there twice."""
        return tuple(self._killed.values())

    @property
    def apart(self) -> float:
        """For how long it must run apart at its next start; 0 for not at all."""
        return min(MAX_APART, FIRST_APART * 2.0 ** (self._deaths - 2)) if self._deaths >= 2 else 0.0

    def on_permission(self) -> None:
        """A worker may begin with it. One that must run apart may have to wait there."""
        self._runs_since = None

    def on_start(self, now: float) -> None:
        """It begins at that worker."""
        self._runs_since = now

    def on_left(self, instance: str, now: float, *, worker: str, is_dead: bool) -> bool:
        """Its copy came back from a worker that did not say goodbye. `is_dead`: an obituary was seen.

        `worker`: the name of that instance.

        Without one it counts as a death until it is clear that none comes: the next start cannot wait for that.
        """
        self._clear_doubt(now)
        # A worker that had it twice was not dead the first time.
        self.on_alive(instance)
        if self.apart and self._runs_since is None:
            return False
        was_apart = self._is_apart(now)
        self._deaths += 1
        if is_dead:
            return was_apart and self._charge(instance, worker)
        self._doubtful = {**self._doubtful, instance: (now, worker, was_apart)}
        return False

    def on_obituary(self, instance: str, now: float) -> bool:
        """A worker that it does not run on any more is dead."""
        self._clear_doubt(now)
        if instance not in self._doubtful:
            return False
        _, worker, was_apart = self._doubtful[instance]
        self._doubtful = _without(self._doubtful, instance)
        return was_apart and self._charge(instance, worker)

    def on_alive(self, instance: str) -> None:
        """The worker is not dead: it gave the request back, or its connection was cut for a moment."""
        if instance in self._killed:
            self._killed = _without(self._killed, instance)
        if instance in self._doubtful:
            self._doubtful = _without(self._doubtful, instance)
            self._deaths -= 1

    def _is_apart(self, now: float) -> bool:
        return self._runs_since is not None and now - self._runs_since < self.apart * MARGIN

    def _clear_doubt(self, now: float) -> None:
        for instance, (since, _, _) in list(self._doubtful.items()):
            if now - since >= OBITUARY_DELAY:
                self.on_alive(instance)

    def _charge(self, instance: str, worker: str) -> bool:
        self._killed = {**self._killed, instance: worker}
        return len(self._killed) >= self._max_kills


def _without(mapping: Mapping[str, ValueT], name: str) -> Mapping[str, ValueT]:
    return {key: value for key, value in mapping.items() if key != name}
