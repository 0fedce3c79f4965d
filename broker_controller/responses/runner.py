"""Runs responses in the background: takes their jobs, asks the workers, writes what they say to the log.

A job stays unacked until its response is over. When the controller that holds it dies, the broker gives it to another
at once, which goes on where the log ends: with a worker that can, as after a worker's death.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from msgspec import Struct

from broker_controller.gateway import Gateway
from broker_controller.links import Links
from broker_controller.responses.log import ResponseLog
from broker_controller.responses.lookout import GONE_AFTER, LOOK_INTERVAL, Lookout
from broker_controller.responses.run import Run, RunEnd
from broker_controller.responses.shelf import Kept, Owner
from broker_wire import codec
from broker_wire.amqp.channel import Channel
from broker_wire.amqp.connection import Session
from broker_wire.amqp.declare import declare_queues
from broker_wire.amqp.delivery import Delivery
from broker_wire.errors import BrokerError, GarbageError
from broker_wire.garbage import GarbageBin
from broker_wire.messages import Cancel, Job

_log = logging.getLogger(__name__)

MAX_JOBS = 1_000
"""Responses that one controller runs at once; the others wait in the queue of jobs."""
LOG_TIMEOUT = 60.0
"""Seconds that a job waits for the log before it goes back."""


class _Held(Struct, eq=False):
    """A job of ours. After a reconnect it comes again, in another delivery."""

    delivery: Delivery
    run: Run | None = None


class Runner:
    """Of one controller process."""

    def __init__(
        self,
        gateway: Gateway,
        links: Links,
        log: ResponseLog,
        lookout: Lookout,
        garbage: GarbageBin,
        *,
        max_bytes: int,
        reads_sessions: bool,
    ) -> None:
        """`max_bytes`: kept of one response. `reads_sessions`: as the `Keeper`'s."""
        self._gateway = gateway
        self._links = links
        self._log = log
        self._lookout = lookout
        self._garbage = garbage
        self._max_bytes = max_bytes
        self._reads_sessions = reads_sessions
        self._held: dict[str, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel: Channel | None = None
        self._session: Session | None = None
        self._tag = ""
        self._leaving = False
        self._idle = asyncio.Event()
        self._idle.set()
        log.on_open.append(self._on_open)
        gateway.door.on_leave.append(self._stop_taking)

    @property
    def running(self) -> int:
        """Jobs that this controller holds."""
        return len(self._held)

    async def run(self) -> None:
        """Until cancelled; then what still runs is given up, and its jobs are the next controller's."""
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def leave(self, timeout: float) -> None:
        """Take no new job; finish what runs within `timeout` seconds, and hand the rest over."""
        self._stop_taking()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout)
        for held in list(self._held.values()):
            if held.run is not None:
                held.run.hand_over()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), LOOK_INTERVAL)

    # --- jobs

    def _on_open(self, session: Session) -> None:
        self._session = session
        self._start(self._consume(session))

    async def _consume(self, session: Session) -> None:
        """Take jobs as long as this is the connection; what befalls their queue befalls nothing else."""
        while self._session is session and not self._leaving:
            try:
                await self._consume_until_closed(session)
            except BrokerError as error:
                _log.info("jobs are not taken at this moment reason=%s", error)
            await asyncio.sleep(LOOK_INTERVAL)
            with suppress(BrokerError):
                await declare_queues(session, [self._links.topology.jobs_queue()])

    async def _consume_until_closed(self, session: Session) -> None:
        closed = asyncio.Event()
        channel = self._channel = await session.channel(on_closed=lambda _: closed.set())
        self._tag = await channel.consume(
            self._links.topology.jobs_queue().name,
            self._on_delivery,
            prefetch=MAX_JOBS,
            on_cancelled=lambda _: channel.abandon("the queue of jobs was deleted"),
        )
        await closed.wait()

    def _stop_taking(self) -> None:
        self._leaving = True
        if self._channel is not None:
            self._channel.cancel(self._tag)

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            job = codec.decode_kept(delivery.body, delivery.content_type)
        except GarbageError as error:
            self._garbage.drop("jobs", error)
            delivery.channel.ack(delivery.tag)
            return
        if not isinstance(job, Job):
            self._garbage.drop("jobs", "records among the jobs")
            delivery.channel.ack(delivery.tag)
        elif self._leaving:
            delivery.channel.nack(delivery.tag)
        elif job.id in self._held:
            # Of a connection that is gone, or published twice.
            former, self._held[job.id].delivery = self._held[job.id].delivery, delivery
            former.channel.ack(former.tag)
        else:
            held = self._held[job.id] = _Held(delivery)
            self._idle.clear()
            self._start(self._serve(job.id, held))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a response in the background was given up for a fault of ours", exc_info=task.exception())

    async def _serve(self, response_id: str, held: _Held) -> None:
        is_over = False
        try:
            is_over = await self._see_to(response_id, held)
        finally:
            del self._held[response_id]
            if not self._held:
                self._idle.set()
            settle = held.delivery.channel.ack if is_over else held.delivery.channel.nack
            settle(held.delivery.tag)

    async def _see_to(self, response_id: str, held: _Held) -> bool:
        """Whether it is over, and its job with it."""
        if not await self._has_read_log():
            return False
        kept = self._log.shelf.get(response_id)
        if kept is None:
            _log.warning("a job without its response was dropped response=%s", response_id)
            return True
        while not kept.over:
            if self._leaving and held.run is None:
                return False
            owner = kept.owner
            if owner is not None and owner.controller != self._log.controller_id:
                if not await self._is_gone(kept, owner):
                    if self._leaving:
                        return False
                    continue
                self._stop_former(kept, owner)
            run = held.run = Run(self._gateway, self._log, kept, self._max_bytes, reads_sessions=self._reads_sessions)
            match await run.go():
                case RunEnd.HANDED_OVER:
                    return False
                case RunEnd.TAKEN_OVER | RunEnd.OVER:
                    continue
        return True

    async def _has_read_log(self) -> bool:
        deadline = time.monotonic() + LOG_TIMEOUT
        while time.monotonic() < deadline:
            with suppress(Exception):
                await self._log.read_all()
                return True
            await asyncio.sleep(LOOK_INTERVAL)
        return False

    # --- who ran it before

    async def _is_gone(self, kept: Kept, owner: Owner) -> bool:
        """Wait until whoever runs it is gone; False when it is over, or another's, before that."""
        missed = 0
        while kept.owner == owner and not kept.over and not self._leaving:
            missed = 0 if await self._lookout.is_there(owner.controller) else missed + 1
            if missed >= GONE_AFTER:
                _log.warning("a response is taken over response=%s from=%s", kept.created.id, owner.controller)
                return True
            await asyncio.sleep(LOOK_INTERVAL)
        return False

    def _stop_former(self, kept: Kept, owner: Owner) -> None:
        """The worker of a controller that is gone would hold its slot for the time of grace."""
        if owner.stream is None:
            return
        model = str(kept.fields["model"])
        cancel = Cancel(owner.controller, owner.stream, max(1.0, kept.created.within))
        self._links.send_control(self._links.topology.model_key(model), cancel)
