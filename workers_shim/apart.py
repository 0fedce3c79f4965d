"""Requests that must run apart, since workers have died with them: one at a time, or nobody could tell which one kills.

Part of `custody`, which says what it means to run one and to give one back. All on the broker's loop.
"""

import asyncio
import time
from collections.abc import Callable

from broker_wire.messages import Go
from workers_shim.held import Held
from workers_shim.slot_decisions import Role

SUSPECT_WAIT = 0.25
"""Seconds that one waits for another one here, before some other worker may have it."""
MAX_APART = 600.0
"""Seconds that anything runs apart here at most, whatever a controller says."""


class Apart:
    """One a worker.

    Args:
        wait: seconds that one waits for another one.
        run: starts one whose turn has come.
        give_back: lets another worker have one that has waited.
    """

    def __init__(self, wait: float, run: Callable[[Held, Go], None], give_back: Callable[[Held], None]) -> None:
        self._wait = wait
        self._run = run
        self._give_back = give_back
        self._waiting: dict[Held, Go] = {}
        self._until: dict[Held, float] = {}
        """Those that run, and until when nothing else that must run apart is started beside them; monotonic."""

    @property
    def busy(self) -> bool:
        """Whether one runs, so that no other one may."""
        now = time.monotonic()
        return any(until > now for until in self._until.values())

    def began(self, held: Held, seconds: float) -> None:
        """This one runs, and for so long alone."""
        seconds = min(seconds, MAX_APART)
        self._until[held] = time.monotonic() + seconds
        asyncio.get_running_loop().call_later(seconds, self._on_time_over, held)

    def over(self, held: Held) -> None:
        """This one does not run any more, if it did."""
        if self._until.pop(held, None) is not None:
            self._start_next()

    def wait(self, held: Held, go: Go) -> None:
        """This one may run, when no other one does. A pinned one waits for that: no other worker may have it."""
        self._waiting[held] = go
        if held.lease.source.role is not Role.PINNED:
            asyncio.get_running_loop().call_later(self._wait, self._on_waited, held)

    def forget(self, held: Held) -> None:
        """This one waits no longer, if it did."""
        self._waiting.pop(held, None)

    def _on_waited(self, held: Held) -> None:
        if held in self._waiting:
            self._give_back(held)

    def _on_time_over(self, held: Held) -> None:
        remaining = self._until.get(held, 0.0) - time.monotonic()
        if remaining > 0:
            # A loop's own clock is coarser, and its timers may be early; nobody else would start the next one.
            asyncio.get_running_loop().call_later(remaining, self._on_time_over, held)
        else:
            self._start_next()

    def _start_next(self) -> None:
        if self._waiting and not self.busy:
            held = next(iter(self._waiting))
            self._run(held, self._waiting.pop(held))
