"""What the HTTP side may do with kept responses: find, begin, keep, follow, cancel and delete them.

All of it works at any controller: what is asked of a response that another one runs goes by way of the log.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from broker_controller.errors import (
    RETRY_AFTER,
    BadRequestError,
    BrokerUnavailableError,
    DeadlineError,
    ModelNotFoundError,
    OverloadedError,
    PreviousResponseNotFoundError,
    QueueFullError,
    RequestTooLargeError,
    ResponseNotFoundError,
    ServiceError,
)
from broker_controller.gateway import Gateway
from broker_controller.links import Links
from broker_controller.registry import Registry
from broker_controller.responses.config import KeepConfig
from broker_controller.responses.live import Live
from broker_controller.responses.log import ResponseLog
from broker_controller.responses.lookout import Lookout
from broker_controller.responses.records import failed, size_of
from broker_controller.responses.request import Asked, encode_fields
from broker_controller.responses.runner import Runner
from broker_controller.responses.shelf import LATE, Kept, Shelf
from broker_wire.amqp.channel import Outcome
from broker_wire.errors import NotConnectedError
from broker_wire.garbage import GarbageBin
from broker_wire.messages import CancelAsked, Created, Deleted, Job
from broker_wire.topology import KeepBounds

_log = logging.getLogger(__name__)

CANCEL_TIMEOUT = 10.0
"""Seconds in which whoever runs a response says that it is cancelled."""
PUBLISH_TIMEOUT = 10.0


_ID = re.compile(r"resp_[0-9a-f]{32}")


def new_id() -> str:
    """Nobody guesses it: who knows it may read the response."""
    return f"resp_{secrets.token_hex(16)}"


class Keeper:
    """Of one controller process."""

    def __init__(
        self,
        gateway: Gateway,
        links: Links,
        registry: Registry,
        garbage: GarbageBin,
        config: KeepConfig,
        *,
        reads_sessions: bool,
    ) -> None:
        """`reads_sessions`: whoever has a conversation's beginning in its cache is looked for."""
        self.config = config
        self._links = links
        self._registry = registry
        self._shelf = Shelf(ttl=config.ttl, max_bytes=config.store_bytes)
        bounds = KeepBounds(config.store_bytes, config.ttl + config.within + LATE)
        self._log = ResponseLog(gateway.controller_id, links, self._shelf, bounds, garbage)
        self._log.on_lost = self._end_lost
        self._lookout = Lookout(links, self._log)
        self._runner = Runner(
            gateway,
            links,
            self._log,
            self._lookout,
            garbage,
            max_bytes=config.max_bytes,
            reads_sessions=reads_sessions,
        )

    def join(self) -> None:
        """Another controller has made the log."""
        self._log.join()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._log.run(), name="log of responses")
            tasks.create_task(self._lookout.run(), name="lost controllers")
            tasks.create_task(self._runner.run(), name="responses in the background")

    async def leave(self, timeout: float) -> None:
        """Finish what runs in the background within `timeout` seconds, and hand the rest over."""
        await self._runner.leave(timeout)

    def status(self) -> dict[str, int]:
        """For people and programs."""
        return {"kept": len(self._shelf), "bytes": self._shelf.size, "running": self._runner.running}

    # --- reading

    async def find(self, response_id: str) -> Kept:
        """Raises: ResponseNotFoundError, BrokerUnavailableError."""
        kept = self._shelf.get(response_id)
        if kept is None and _ID.fullmatch(response_id):
            # Another controller may have written it a moment ago.
            await self._log.read_all()
            kept = self._shelf.get(response_id)
        if kept is None:
            raise ResponseNotFoundError(f"the response {response_id[:80]!r} is not kept")
        return kept

    async def conversation(self, previous: str | None) -> list[dict[str, Any]]:
        """All items up to the end of a response that is complete. Raises: ServiceError."""
        if previous is None:
            return []
        try:
            kept = await self.find(previous)
        except ResponseNotFoundError as error:
            raise PreviousResponseNotFoundError(f"the previous response {previous[:80]!r} is not kept") from error
        if not kept.over:
            raise BadRequestError(f"the previous response {previous!r} is not over yet")
        return kept.conversation()

    # --- writing

    async def begin(self, response_id: str, asked: Asked, items: Sequence[dict[str, Any]]) -> Kept:
        """A response in the background: some controller runs it. Raises: ServiceError."""
        model = asked.body.model
        if model not in self._registry.models():
            raise ModelNotFoundError("no worker serves it")
        created = self.created(response_id, asked, items)
        size = size_of(created)
        if size > self.config.max_bytes:
            raise RequestTooLargeError(f"it has {size} bytes, and {self.config.max_bytes} are kept of a response")
        await self._log.open()
        if self._shelf.full:
            raise OverloadedError(
                f"it was not taken: {self._shelf.size} bytes of responses that are not over are kept",
                retry_after=RETRY_AFTER,
            )
        await self._log.kept(created)
        await self._publish_job(response_id)
        return await self.find(response_id)

    def created(self, response_id: str, asked: Asked, items: Sequence[dict[str, Any]]) -> Created:
        """The first record of a response."""
        return Created(
            response_id,
            time.time(),
            bool(asked.body.background),
            encode_fields(asked),
            msgspec.json.encode(items),
            self.config.within,
        )

    def live(self, created: Created) -> Live:
        """For a response that its client reads as it comes."""
        return Live(self._log, created, self.config.max_bytes)

    async def cancel(self, kept: Kept) -> None:
        """Of a response in the background; of one that is over nothing is changed. Raises: ServiceError."""
        if not kept.created.background:
            raise BadRequestError("only a response in the background can be cancelled: close the connection instead")
        if kept.over:
            return
        with Follower(kept) as follower:
            await self._log.kept(CancelAsked(kept.created.id, time.time()))
            deadline = time.monotonic() + CANCEL_TIMEOUT
            while not kept.over and time.monotonic() < deadline:
                await follower.wait(deadline - time.monotonic())

    async def delete(self, kept: Kept) -> None:
        """Raises: BrokerUnavailableError."""
        await self._log.kept(Deleted(kept.created.id))
        await self._log.read_all()

    # --- inside

    async def _publish_job(self, response_id: str) -> None:
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def on_outcome(outcome: Outcome) -> None:
            if not settled.done():
                settled.set_result(outcome)

        try:
            self._links.send_kept(self._links.topology.jobs_key, Job(response_id), on_outcome)
            async with asyncio.timeout(PUBLISH_TIMEOUT):
                outcome = await settled
        except (NotConnectedError, TimeoutError):
            outcome = Outcome.LOST
        match outcome:
            case Outcome.CONFIRMED:
                return
            case Outcome.NACKED:
                error: ServiceError = QueueFullError(
                    "it was not taken, as many responses as may wait are waiting", retry_after=RETRY_AFTER
                )
            case _:
                why = self._links.problem or "the broker did not take its job"
                error = BrokerUnavailableError(f"it was not taken: {why}", retry_after=RETRY_AFTER)
        self._log.note(Deleted(response_id))
        raise error

    def _end_lost(self, response_id: str) -> None:
        kept = self._shelf.get(response_id)
        if kept is None or not self._links.up:
            return
        error = DeadlineError(f"its time of {kept.created.within:g} s was up, and nobody runs it any more")
        self._log.note(failed(response_id, 0, error, time.time()))


class Follower:
    """Waits for news of one response."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._changed = asyncio.Event()

    def __enter__(self) -> Self:
        self._tell: Callable[[], None] = self._changed.set
        self._kept.on_change.append(self._tell)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._kept.on_change.remove(self._tell)

    async def wait(self, timeout: float) -> bool:
        """Whether something changed since the last time, within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True
