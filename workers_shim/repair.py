"""Opens again what the broker closed while the connection stands: asked by whoever lost it, done by `connections`."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from broker_wire.errors import BrokerError

_log = logging.getLogger(__name__)

FIRST_DELAY = 0.2
MAX_DELAY = 5.0
"""Seconds: bounds of the pause before a try. A broker that closes a channel each time must not be asked in a loop."""


class Repair:
    """One a worker. `open_again` opens whatever is not open, and does nothing when all is.

    It returns False while it cannot look, for a connection is not ready: whatever was lost is looked at later.
    """

    def __init__(self, worker: str, open_again: Callable[[], Awaitable[bool]]) -> None:
        self._worker = worker
        self._open_again = open_again
        self._wanted = asyncio.Event()

    @property
    def wanted(self) -> bool:
        """Something was lost, and no try has begun since."""
        return self._wanted.is_set()

    def ask(self) -> None:
        """Something was lost."""
        self._wanted.set()

    async def run(self) -> None:
        """Without end."""
        delay = FIRST_DELAY
        told = ""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            self._wanted.clear()
            try:
                has_looked = await self._open_again()
            except BrokerError as error:
                delay = min(delay * 2, MAX_DELAY)
                # A queue's node may be down for an hour: one line says so.
                level = logging.DEBUG if str(error) == told else logging.WARNING
                _log.log(level, "channel not opened again worker=%s reason=%s", self._worker, error)
                told = str(error)
                self._wanted.set()
            else:
                told = ""
                delay = FIRST_DELAY if has_looked else min(delay * 2, MAX_DELAY)
                if not has_looked:
                    self._wanted.set()
