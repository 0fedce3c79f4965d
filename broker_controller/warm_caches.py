"""Which worker has read which beginning last: what `affinity` remembers, and one controller alone knows.

Pure and bounded; `gateway` tells it who really runs a request, whatever was chosen.
"""

from collections import OrderedDict
from collections.abc import Mapping

from msgspec import Struct

from broker_controller.session_key import SessionKey
from broker_controller.worker_record import WorkerRecord

MAX_REMEMBERED = 100_000
"""Beginnings, about 25 MB: ten thousand sessions of ten turns."""
MAX_AGE = 1800.0
"""Seconds. After so long a busy worker has filled its cache with others, and the session goes home."""


class _Served(Struct, frozen=True):
    worker: str
    at: float


class WarmCaches:
    """Beginnings of texts, and the worker that has each, the latest last."""

    def __init__(self, capacity: int = MAX_REMEMBERED, max_age: float = MAX_AGE) -> None:
        """`max_age` in seconds of the clock that `now` is of."""
        self._capacity = capacity
        self._max_age = max_age
        self._served: OrderedDict[bytes, _Served] = OrderedDict()

    def __len__(self) -> int:
        return len(self._served)

    def note(self, session: SessionKey, worker: str, now: float) -> None:
        """This worker reads the request's text at this moment."""
        served = _Served(worker, now)
        for beginning in session.beginnings:
            self._served[beginning] = served
            self._served.move_to_end(beginning)
        while len(self._served) > self._capacity:
            self._served.popitem(last=False)

    def find(self, session: SessionKey, candidates: Mapping[str, WorkerRecord], now: float) -> WorkerRecord | None:
        """Of the candidates, by name, the one that has the longest beginning."""
        for beginning in session.beginnings:
            served = self._served.get(beginning)
            if served is not None and now - served.at <= self._max_age and served.worker in candidates:
                return candidates[served.worker]
        return None
