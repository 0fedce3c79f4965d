"""A worker's life on the broker: two connections, what is declared on them, and how it comes and leaves.

Made and run by the worker's broker thread, on its event loop. It puts the parts together; what happens to a request is
`custody`'s, its slots `intake`'s, its answer `outbox`'s, what the fleet hears `announcer`'s.

Publishing and consuming are separate connections: an alarm of the broker stops reading from whoever publishes, and acks
and control messages must pass all the same. The close of the consuming connection is the worker's death.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence

from broker_wire.amqp import Connection, Session, declare_topology, parse_broker_url
from broker_wire.errors import BrokerError, ChannelClosedError
from broker_wire.garbage import GarbageBin
from broker_wire.messages import Announce, Load, ModelCard, WorkerState
from broker_wire.topology import Topology, check_model_name, check_worker_name
from workers_shim.announcer import Announcer, Condition
from workers_shim.config import LeaveReason, Patience, SessionConfig
from workers_shim.control import Control
from workers_shim.controller_links import ControllerLinks
from workers_shim.custody import Custody
from workers_shim.departure import Departure
from workers_shim.intake import Intake
from workers_shim.last_will import RENEW_INTERVAL, LastWill
from workers_shim.orders import Orders
from workers_shim.outbox import Outbox
from workers_shim.pausing_clock import PausingClock
from workers_shim.repair import Repair
from workers_shim.stream import Executor
from workers_shim.tombstones import Tombstones

__all__ = ["LeaveReason", "Patience", "SessionConfig", "WorkerSession"]

_log = logging.getLogger(__name__)


class WorkerSession:
    """One worker, once. `instance` is its id: unique, and a later one sorts after an earlier one.

    Raises: ValueError with a sentence, for a broker's address or a name that cannot be.
    """

    def __init__(
        self,
        config: SessionConfig,
        executor: Executor,
        models: Sequence[ModelCard],
        patience: Patience | None = None,
    ) -> None:
        check_worker_name(config.name)
        self.instance = f"{time.time_ns():016x}-{secrets.token_hex(4)}"
        self.garbage = GarbageBin()
        self._config = config
        self._patience = patience or Patience()
        addresses = parse_broker_url(config.broker_url, config.tls)
        self._publish = Connection(
            addresses,
            name=f"{config.name} publish",
            on_connected=self._publish_connected,
            on_blocked=self._blocked,
        )
        self._consume = Connection(addresses, name=f"{config.name} consume", on_connected=self._consume_connected)
        self._topology = Topology(config.prefix, config.bounds)
        self._models = {card.name: card for card in models}
        self._clock = PausingClock(config.heartbeat_interval)
        self._clock.stop()
        self._loop = asyncio.get_running_loop()
        self._leaving: asyncio.Future[LeaveReason] = self._loop.create_future()
        self._repair = Repair(config.name, self._open_again)
        self._opening = asyncio.Lock()
        self._consuming: Session | None = None
        self._publishing: Session | None = None
        self._queue_lost = False
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
        self._intake = Intake(
            self._topology,
            config.name,
            config.slots,
            self._models,
            take=self._custody.take,
            on_closed=self._requests_closed,
            on_queue_lost=self._request_queue_lost,
            on_made=self._queue_made,
        )
        self._custody.outbox, self._custody.desk = self._outbox, self._intake
        orders = Orders(self._custody, links, self._outbox, tombstones)
        self._control = Control(
            self._topology, config.name, self.instance, orders, self, self.garbage, self._repair.ask
        )
        self._will = LastWill(self._topology, config.name, self.instance, self.garbage, self._repair.ask)
        self._announcer = Announcer(
            config, self.instance, self._topology, self._condition, roll_call_jitter=self._patience.roll_call
        )

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
                    self._publish.run(),
                    self._consume.run(),
                    self._announcer.run(),
                    self._sweep(),
                    self._repair.run(),
                    self._renew_will(),
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

    async def add_model(self, card: ModelCard) -> None:
        """Serve a model, too; without a connection, from the next one on.

        Raises: NameRefusedError.
        """
        check_model_name(card.name)
        self._models[card.name] = card
        async with self._opening:
            try:
                await self._control.add_model(card.name)
                await self._intake.add_model(card.name, self._consuming if self._intake.open else None)
            except BrokerError as error:
                _log.warning("model not declared yet model=%s reason=%s", card.name, error)
                self._request_queue_lost()
        self._announcer.announce()

    async def remove_model(self, name: str) -> None:
        """Serve a model no longer. What runs of it goes on; what is on its way goes to other workers."""
        if self._models.pop(name, None) is None:
            return
        async with self._opening:
            self._intake.remove_model(name)
            try:
                await self._control.remove_model(name)
            except BrokerError as error:
                _log.debug("model not unbound model=%s reason=%s", name, error)
        self._announcer.announce()

    # --- connections

    async def _publish_connected(self, session: Session) -> None:
        self._publishing = session
        # To a missing exchange the broker answers by closing the channel, and this connection may be the first one.
        await declare_topology(session, self._topology.exchanges())
        await self._open_publishing(session)
        self._consume.hurry()
        if not self._intake.open:
            await self._take_requests()

    async def _take_requests(self) -> None:
        """Requests are taken only once they can be answered."""
        if self._consuming is None or not self._consume.connected:
            return
        try:
            async with self._opening:
                await self._open_consuming(self._consuming)
        except BrokerError:
            self._repair.ask()

    async def _open_publishing(self, session: Session) -> None:
        channel = await session.channel(confirms=True, on_closed=self._publishing_closed)
        self._announcer.attach(channel)
        self._outbox.attach(channel)
        self._will.attach(channel)
        self._ready_or_not()

    async def _consume_connected(self, session: Session) -> None:
        async with self._opening:
            self._consuming = session
            await declare_topology(session, self._topology.exchanges())
            await self._open_consuming(session)
        self._publish.hurry()

    async def _open_consuming(self, session: Session) -> None:
        """Whatever is not open. Control comes first: the answer to an ask needs a way in."""
        if not self._control.open:
            await self._control.start(session, self._models)
        if not self._will.open:
            await self._will.start(session)
        if not self._intake.open and self._announcer.attached:
            self._queue_lost = False
            await self._intake.start(session)
        elif self._queue_lost:
            # Cleared first: another queue may be lost while these are declared.
            self._queue_lost = False
            try:
                await self._intake.restore(session)
            except BrokerError:
                self._queue_lost = True
                raise
        self._ready_or_not()

    def _ready_or_not(self) -> None:
        """Announce as soon as both ways stand; waiting times count only while they do."""
        if self._announcer.attached and not self._publish.blocked and self._intake.open:
            self._clock.go_on()
            self._announcer.announce()

    def _publishing_closed(self, reason: ChannelClosedError) -> None:
        self._clock.stop()
        self._announcer.detach()
        self._outbox.detach()
        self._will.detach()
        if reason.code:
            _log.warning("channel closed by the broker worker=%s channel=publish reason=%s", self._config.name, reason)
            self._repair.ask()

    def _requests_closed(self) -> None:
        self._clock.stop()
        self._custody.voided()
        self._repair.ask()

    def _request_queue_lost(self) -> None:
        self._queue_lost = True
        self._repair.ask()

    def _queue_made(self, model: str) -> None:
        self._announcer.queue_made(model)

    def _blocked(self, blocked: bool) -> None:
        self._outbox.set_blocked(blocked)
        self._announcer.set_blocked(blocked)
        if blocked:
            self._clock.stop()
        else:
            self._ready_or_not()

    async def _open_again(self) -> None:
        """What the broker closed while the connection stands; a lost connection comes back by itself."""
        if self._consuming is not None and self._consume.connected:
            async with self._opening:
                await self._open_consuming(self._consuming)
        if self._publishing is not None and self._publish.connected and not self._announcer.attached:
            await self._open_publishing(self._publishing)

    # --- time

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._patience.sweep)
            self._outbox.sweep()
            self._custody.sweep()
            self._departure.notice()

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
            load=Load(running=pool.running, waiting=pool.waiting, free=pool.free),
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

    def on_drain(self) -> None:
        """Leave in order."""
        self.drain()

    def on_first_announce(self, other: Announce) -> None:
        """Some instance claims this name."""
        if not self._leaving.done() and self._departure.gives_name_to(other):
            self._leaving.set_result(LeaveReason.TAKEN_OVER)
