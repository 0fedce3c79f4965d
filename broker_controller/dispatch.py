"""Who gets the next request: one small class for each policy.

Pure: a policy sees the workers that may take the request, in order of registration, and names one or none. None means
the model's queue, where whoever has a free slot takes it. Used by `controller`; it changes nothing.

`session` is what a request has in common with earlier ones; `affinity` alone looks at it.
"""

from collections.abc import Sequence
from enum import StrEnum
from random import Random
from typing import Protocol

from broker_controller.affinity import Affinity
from broker_controller.session_key import SessionKey
from broker_controller.warm_caches import WarmCaches
from broker_controller.worker_record import WorkerRecord


class DispatchMethod(StrEnum):
    """The policies; LLaVA and FastChat have two of them, by these names."""

    QUEUE = "queue"
    LOTTERY = "lottery"
    SHORTEST_QUEUE = "shortest_queue"
    AFFINITY = "affinity"

    @classmethod
    def from_str(cls, name: str) -> "DispatchMethod":
        """Raises: ValueError, with the names that there are."""
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(cls)
            raise ValueError(f"there is no dispatch method {name!r}; choose one of: {known}") from None


class Dispatcher(Protocol):
    """A policy."""

    def choose(
        self, candidates: Sequence[WorkerRecord], now: float, session: SessionKey | None = None
    ) -> WorkerRecord | None:
        """One of the candidates, or None for the model's queue; `now` in the registry's seconds."""


class Queue:
    """Never chooses: the request waits in the model's queue for the first free slot."""

    def choose(
        self,
        candidates: Sequence[WorkerRecord],  # noqa: ARG002
        now: float,  # noqa: ARG002
        session: SessionKey | None = None,  # noqa: ARG002
    ) -> WorkerRecord | None:
        """None."""
        return None


class ShortestQueue:
    """The least load for its speed, counting what was just sent there.

    Of equals the one that was chosen longest ago, then the one that registered first. Workers without a speed come
    after all others, the least loaded of them first.
    """

    def choose(
        self,
        candidates: Sequence[WorkerRecord],
        now: float,
        session: SessionKey | None = None,  # noqa: ARG002
    ) -> WorkerRecord | None:
        """None only where there is no candidate."""
        return min(candidates, key=lambda record: _wait(record, now), default=None)


class Lottery:
    """Drawn by lot, each worker with a chance in proportion to its speed. Without any speed there is no winner."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def choose(
        self,
        candidates: Sequence[WorkerRecord],
        now: float,  # noqa: ARG002
        session: SessionKey | None = None,  # noqa: ARG002
    ) -> WorkerRecord | None:
        """None where there is no candidate with a speed."""
        entrants = [record for record in candidates if record.speed > 0]
        if not entrants:
            return None
        return self._random.choices(entrants, [record.speed for record in entrants])[0]


def make_dispatcher(method: DispatchMethod, random: Random, caches: WarmCaches) -> Dispatcher:
    """The policy of this name; `random` draws the lots, `caches` is what `affinity` knows."""
    match method:
        case DispatchMethod.QUEUE:
            return Queue()
        case DispatchMethod.LOTTERY:
            return Lottery(random)
        case DispatchMethod.SHORTEST_QUEUE:
            return ShortestQueue()
        case DispatchMethod.AFFINITY:
            return Affinity(caches)


def _wait(record: WorkerRecord, now: float) -> tuple[bool, float, int]:
    load = record.load(now)
    has_speed = record.speed > 0
    return (not has_speed, load / record.speed if has_speed else load, record.turn)
