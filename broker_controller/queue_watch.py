"""Reads once a second how many requests wait in each model's queue, on a channel of its own.

`/status` and `/worker_get_status` show it; a nested controller's parent decides by it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from broker_controller.links import Links
from broker_wire.amqp.connection import Session
from broker_wire.amqp.declare import queue_ready_counts
from broker_wire.errors import BrokerError

_log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two readings."""
READ_TIMEOUT = 10.0


class QueueWatch:
    """`lengths` has the models whose queue exists, and the requests that wait there; `empty` those where none does."""

    def __init__(self, links: Links, models: Callable[[], Iterable[str]]) -> None:
        """`models` gives those to read."""
        self.lengths: dict[str, int] = {}
        self.empty: frozenset[str] = frozenset()
        """Of the last reading only: none where it failed."""
        self._links = links
        self._models = models
        self._session: Session | None = None
        links.on_consumer_up.append(self._attach)

    @property
    def waiting(self) -> int:
        """Requests that wait in any model's queue."""
        return sum(self.lengths.values())

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            if self._session is not None and self._links.up:
                await self._read(self._session)
            else:
                self.empty = frozenset()

    async def _attach(self, session: Session) -> None:
        self._session = session

    async def _read(self, session: Session) -> None:
        topology = self._links.topology
        names = {topology.model_queue(model).name: model for model in self._models()}
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                counts = await queue_ready_counts(session.channel, names)
        except (BrokerError, TimeoutError) as error:
            _log.info("queue lengths not read reason=%s", error)
            self.empty = frozenset()
            return
        self.lengths = {names[name]: count for name, count in counts.items() if count is not None}
        self.empty = frozenset(model for model, length in self.lengths.items() if not length)
