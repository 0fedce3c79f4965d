"""A worker's life on the broker: how it comes, what it hears and says, and how it leaves.

Made and run by the worker's broker thread, on its event loop. It puts the parts together: what is open on the broker
is for `connections`, what happens to a request for `custody`, its slots for `intake`, its answer for `outbox`, and what
the fleet hears for `announcer`.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress

from broker_wire.garbage import GarbageBin
from broker_wire.messages import Announce, Answered, Load, ModelCard, Question, WorkerState
from broker_wire.topology import MODEL_QUEUE_EXPIRES, Topology, check_model_name, check_worker_name
from workers_shim.announcer import Announcer, Condition
from workers_shim.config import LeaveReason, Patience, SessionConfig
from workers_shim.connections import Connections
from workers_shim.controller_links import ControllerLinks
from workers_shim.custody import Custody
from workers_shim.departure import Departure
from workers_shim.last_will import RENEW_INTERVAL
from workers_shim.orders import Orders
from workers_shim.outbox import Outbox
from workers_shim.pausing_clock import PausingClock
from workers_shim.stream import EngineSide
from workers_shim.tombstones import Tombstones

__all__ = ["LeaveReason", "Patience", "SessionConfig", "WorkerSession"]

_log = logging.getLogger(__name__)

KEEP_INTERVAL = MODEL_QUEUE_EXPIRES / 3
"""Seconds between two signs that a queue is still of use here, although a full worker does not consume it."""


class WorkerSession:
    """One worker, once. `instance` is its id: unique, and a later one sorts after an earlier one.

    Raises: ValueError with a sentence, for a broker's address or a name that cannot be.
    """

    def __init__(
        self,
        config: SessionConfig,
        executor: EngineSide,
        models: Sequence[ModelCard],
        patience: Patience | None = None,
    ) -> None:
        check_worker_name(config.name)
        self.instance = f"{time.time_ns():016x}-{secrets.token_hex(4)}"
        self.garbage = GarbageBin()
        self._config = config
        self._executor = executor
        self._patience = patience or Patience()
        self._topology = Topology(config.prefix, config.bounds)
        self._models = {card.name: card for card in models}
        self._clock = PausingClock(config.heartbeat_interval)
        self._clock.stop()
        self._loop = asyncio.get_running_loop()
        self._elsewhere = 0
        self._leaving: asyncio.Future[LeaveReason] = self._loop.create_future()
        tombstones = Tombstones()
        links = ControllerLinks(self._clock.now, grace=config.grace)
        self._links = links
        self._custody = Custody(
            config.name,
            self.instance,
            executor,
            self._models,
            links,
            self.garbage,
            watched=self._clock.now,
            on_change=self._changed,
            ask_timeout=self._patience.ask,
            suspect_wait=self._patience.suspect,
            tombstones=tombstones,
        )
        self._outbox = Outbox(self._topology.replies, self.instance, self._loop, links, self._custody)
        self._announcer = Announcer(
            config, self.instance, self._topology, self._condition, roll_call_jitter=self._patience.roll_call
        )
        self._connections = Connections(
            config,
            self.instance,
            self._topology,
            self._models,
            self._clock,
            self._custody,
            self._outbox,
            self._announcer,
            Orders(self._custody, links, self._outbox, tombstones),
            self,
            self.garbage,
        )
        self._intake, self._will = self._connections.intake, self._connections.will
        self._custody.outbox, self._custody.desk = self._outbox, self._intake
        self._idle_since = time.monotonic()
        self._done_before = 0
        self._departure = Departure(
            config.name,
            self.instance,
            intake=self._intake,
            custody=self._custody,
            links=links,
            outbox=self._outbox,
            announcer=self._announcer,
            will=self._will,
            drain_timeout=config.drain_timeout,
            farewell=self._patience.farewell,
        )

    # --- for the worker

    async def run(self) -> LeaveReason:
        """Serve until the worker is drained, taken over, or ended. It need not be connected, at first or later."""
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(work)
                for work in (
                    self._connections.run(),
                    self._announcer.run(),
                    self._sweep(),
                    self._renew_will(),
                    self._keep_queues(),
                )
            ]
            try:
                reason = await self._departure.leave(await self._leaving)
            finally:
                self._custody.stop_all()
                for task in running:
                    task.cancel()
        _log.info("worker left worker=%s instance=%s reason=%s", self._config.name, self.instance, reason.value)
        return reason

    def drain(self) -> None:
        """Take no new request, finish what runs, leave. Idempotent."""
        if not self._leaving.done():
            _log.info("worker drains worker=%s running=%d", self._config.name, self._intake.pool.running)
            self._leaving.set_result(LeaveReason.DRAINED)

    def end_now(self) -> None:
        """Leave without waiting for what runs: other workers go on with it. Idempotent."""
        self._departure.hurry()
        if not self._leaving.done():
            self._leaving.set_result(LeaveReason.ENDED)

    def set_elsewhere(self, requests: int) -> None:
        """What is behind the engines has so many requests from others; they wait here, as seen by dispatch."""
        if requests != self._elsewhere:
            self._elsewhere = requests
            self._announcer.changed()

    async def add_model(self, card: ModelCard) -> None:
        """Serve a model, too; without a connection, from the next one on.

        Raises: NameRefusedError.
        """
        check_model_name(card.name)
        self._models[card.name] = card
        await self._connections.add_model(card.name)
        self._announcer.announce()

    async def remove_model(self, name: str) -> None:
        """Serve a model no longer. What runs of it goes on; what is on its way goes to other workers."""
        if self._models.pop(name, None) is None:
            return
        await self._connections.remove_model(name)
        self._announcer.announce()

    # --- time

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._patience.sweep)
            self._outbox.sweep()
            self._custody.sweep()
            self._departure.notice()
            self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        limit = self._config.idle_exit
        if limit is None or self._leaving.done():
            return
        pool, now, done = self._intake.pool, time.monotonic(), self._custody.requests_done
        # Without a connection nothing can come: that it is idle then says nothing.
        if pool.running or pool.waiting or done != self._done_before or not self._intake.open:
            self._idle_since, self._done_before = now, done
        elif now - self._idle_since >= limit:
            _log.info("worker idle worker=%s seconds=%g", self._config.name, limit)
            self.drain()

    async def _keep_queues(self) -> None:
        while True:
            await asyncio.sleep(KEEP_INTERVAL)
            self._intake.keep_queues()

    async def _renew_will(self) -> None:
        while True:
            await asyncio.sleep(RENEW_INTERVAL)
            self._will.renew()

    def _changed(self) -> None:
        self._departure.notice()
        self._announcer.changed()

    def _condition(self) -> Condition:
        pool = self._intake.pool
        return Condition(
            state=WorkerState.DRAINING if self._leaving.done() else WorkerState.READY,
            load=Load(running=pool.running, waiting=pool.waiting + self._elsewhere, free=pool.free),
            requests_done=self._custody.requests_done,
            tokens_done=self._outbox.tokens_done,
            models=tuple(self._models.values()),
            reachable=self._intake.open,
        )

    # --- what controllers and namesakes say

    def on_controller_spoke(self, controller: str) -> None:
        """A sign of life."""
        self._outbox.controller_spoke(controller)

    def on_roll_call(self) -> None:
        """Announce within a moment."""
        self._announcer.answer_roll_call()

    def on_introduce(self) -> None:
        """Announce now."""
        self._announcer.announce()

    def on_question(self, question: Question) -> None:
        """Have it answered, whatever runs."""

        def reply(answer: Answered) -> None:
            # The loop is closed only when the session is over: whoever asked asks another worker then.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._outbox.note, question.controller, answer)

        self._executor.ask(question, reply)

    def on_drain(self) -> None:
        """Leave in order."""
        self.drain()

    def on_first_announce(self, other: Announce) -> None:
        """Some instance claims this name."""
        if self._leaving.done():
            self._departure.give_name_up(other)
        elif self._departure.gives_name_to(other):
            self._leaving.set_result(LeaveReason.TAKEN_OVER)

    def on_namesake(self, other: Announce) -> None:
        """Some instance goes on under this name as if it were its own."""
        if not self._leaving.done() and self._departure.keeps_name_from(other):
            self._announcer.claim_again()
