"""Dispatch to the worker whose KV cache is warm, as long as that makes no hotspot.

The policy is consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016; HAProxy's and Envoy's
`hash-balance-factor`), with a memory in front: who served the session last has its cache, wherever it was drawn to.
What is over the bound goes to the model's queue, to the first free slot. Pure; made by `dispatch`.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

from broker_controller.session_key import SessionKey
from broker_controller.warm_caches import WarmCaches
from broker_controller.worker_record import WorkerRecord

LOAD_FACTOR = 2.0
"""Times its share of all requests that a worker may have. docs/dispatch.md has the simulation that it comes from."""


class Affinity:
    """The worker that served the session last, else the one that is drawn by its digest; None when that has its share.

    Two controllers that know nothing of each other's sessions draw the same worker.
    """

    def __init__(self, caches: WarmCaches, load_factor: float = LOAD_FACTOR) -> None:
        self._caches = caches
        self._load_factor = load_factor

    def choose(
        self, candidates: Sequence[WorkerRecord], now: float, session: SessionKey | None = None
    ) -> WorkerRecord | None:
        """None also for a request of no session."""
        if session is None or not candidates:
            return None
        preferred = self._caches.find(session, {record.name: record for record in candidates}, now)
        if preferred is None:
            preferred = rendezvous(candidates, session.home)
        return preferred if self._has_room(preferred, candidates, now) else None

    def _has_room(self, record: WorkerRecord, candidates: Sequence[WorkerRecord], now: float) -> bool:
        """Whether it stays in its bound with one request more. The share is by its slots, rounded up to a whole one."""
        total = 1 + sum(other.load(now) for other in candidates)
        share = weight(record) / sum(map(weight, candidates))
        return record.load(now) + 1 <= math.ceil(self._load_factor * total * share)


def rendezvous(candidates: Sequence[WorkerRecord], digest: bytes) -> WorkerRecord:
    """Highest random weight: each worker draws a number from its name and the digest, and the best one wins.

    A worker that comes or goes changes the choice for its own share alone.
    """
    return max(candidates, key=lambda record: _score(record, digest))


def weight(record: WorkerRecord) -> int:
    """Its slots; an HTTP worker that nobody bridges at this moment says none."""
    return max(1, record.slots)


def _score(record: WorkerRecord, digest: bytes) -> float:
    drawn = blake2b(record.name.encode(), key=digest, digest_size=8).digest()
    # In (0, 1); by its logarithm, the chance to have the best score is in proportion to the weight.
    number = (int.from_bytes(drawn, "big") + 0.5) / 2**64
    return -weight(record) / math.log(number)
