"""How a worker leaves: takes nothing new, finishes what runs, says goodbye. Used by `session`, once.

Also the judgement whether it has to: a name belongs to one instance at a time.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from broker_wire.messages import Announce, WorkerState
from workers_shim.announcer import Announcer
from workers_shim.config import LeaveReason
from workers_shim.controller_links import ControllerLinks
from workers_shim.custody import Custody
from workers_shim.intake import Intake
from workers_shim.last_will import LastWill
from workers_shim.outbox import Outbox

_log = logging.getLogger(__name__)

SAME_TIME = 2.0
"""Seconds: two first announces of one name within this are taken for simultaneous."""


def must_yield(instance: str, claimed_at: float | None, other: Announce, now: float) -> bool:
    """Whether `instance` has to leave because `other` claims its name.

    Whoever comes later has the name. Of two that come at once the greater instance id stays: both see it the same way.

    Args:
        claimed_at: when this instance claimed the name itself, None if it has not yet; monotonic seconds.
    """
    if other.instance == instance:
        return False
    at_once = claimed_at is None or now - claimed_at < SAME_TIME
    return not at_once or instance < other.instance


class Departure:
    """The way out.

    Args:
        drain_timeout: seconds that running requests have.
        farewell: seconds that stopped engines have to come back in, and then the last answers to be fetched in.
    """

    def __init__(
        self,
        worker: str,
        instance: str,
        *,
        intake: Intake,
        custody: Custody,
        links: ControllerLinks,
        outbox: Outbox,
        announcer: Announcer,
        will: LastWill,
        drain_timeout: float,
        farewell: float,
    ) -> None:
        self._worker = worker
        self._instance = instance
        self._intake = intake
        self._custody = custody
        self._links = links
        self._outbox = outbox
        self._announcer = announcer
        self._will = will
        self._drain_timeout = drain_timeout
        self._farewell = farewell
        self._hurry = False
        self._name_given_up = False
        self._news = asyncio.Event()

    def notice(self) -> None:
        """Something may be over."""
        self._news.set()

    def hurry(self) -> None:
        """Wait for nothing any more."""
        self._hurry = True
        self._news.set()

    def gives_name_to(self, other: Announce) -> bool:
        """Whether this instance has to leave, as another one claims its name; said in the log either way."""
        if other.instance == self._instance:
            return False
        yields = must_yield(self._instance, self._announcer.first_sent_at, other, time.monotonic())
        _log.log(
            logging.ERROR if yields else logging.WARNING,
            "%s worker=%s instance=%s other=%s host=%s pid=%d",
            "name taken over by another instance, this one leaves"
            if yields
            else "name kept, the other instance leaves",
            self._worker,
            self._instance,
            other.instance,
            other.host,
            other.pid,
        )
        return yields

    def keeps_name_from(self, other: Announce) -> bool:
        """Whether an older instance goes on under this name: it was frozen or cut off when the name was claimed."""
        if other.instance >= self._instance or other.state is WorkerState.DRAINING:
            return False
        _log.warning(
            "name claimed again, an older instance has not heard of it worker=%s instance=%s other=%s host=%s pid=%d",
            self._worker,
            self._instance,
            other.instance,
            other.host,
            other.pid,
        )
        return True

    def give_name_up(self, other: Announce) -> None:
        """It leaves already, and another instance claims the name meanwhile: not a word under it any more."""
        if other.instance != self._instance:
            self._name_given_up = True
            self._news.set()

    async def leave(self, reason: LeaveReason) -> LeaveReason:
        """Returns: the reason, or that it was ended meanwhile."""
        self._intake.drain()
        self._announcer.changed()
        if reason is LeaveReason.TAKEN_OVER:
            # The name is another's: not a word under it any more. What runs is finished all the same.
            await self._say_goodbye(reason)
        if not await self._finished() and not self._hurry:
            _log.warning(
                "worker leaves with requests running worker=%s running=%d", self._worker, self._intake.pool.running
            )
        await self._say_goodbye(reason)
        return LeaveReason.ENDED if self._hurry and reason is LeaveReason.DRAINED else reason

    async def _say_goodbye(self, reason: LeaveReason) -> None:
        if self._announcer.heard:
            # Released first: whoever says goodbye is not dead. If nothing can be said, the obituary says it.
            self._will.release()
            await self._announcer.leave(reason.value)

    async def _finished(self) -> bool:
        """Wait until nothing runs that anybody wants, then for the last answers to be fetched."""
        if not await self._until(lambda: not self._custody.wanted, self._drain_timeout):
            return False
        # An engine that was told to stop is not waited for as if it worked: it may never come back.
        await self._until(lambda: self._custody.empty, self._farewell)
        # Confirmed is not yet received: a controller that has just reconnected may ask for the tail again.
        await self._until(lambda: self._links.kept == 0 and self._outbox.quiet, self._farewell)
        return True

    async def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Returns: whether it holds; False when the time was up, or it is to hurry."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (holds() or self._hurry):
                    if self._name_given_up:
                        await self._say_goodbye(LeaveReason.TAKEN_OVER)
                    self._news.clear()
                    await self._news.wait()
        return holds()
