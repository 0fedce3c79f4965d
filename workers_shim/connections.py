"""A worker's two connections, and what is open on them: in which order it comes, and comes again when it was lost.

Publishing and consuming are separate connections: an alarm of the broker stops reading from whoever publishes, and acks
and control messages must pass all the same. The close of the consuming connection is the worker's death. Made by
`session`; what passes over the channels is for those that they are handed to.
"""

import asyncio
import logging
from collections.abc import Mapping

from broker_wire.amqp import Connection, Session, declare_topology, parse_broker_url
from broker_wire.errors import BrokerError, ChannelClosedError
from broker_wire.garbage import GarbageBin
from broker_wire.messages import ModelCard
from broker_wire.topology import Topology
from workers_shim.announcer import Announcer
from workers_shim.config import SessionConfig
from workers_shim.control import Control, ControlListener
from workers_shim.custody import Custody
from workers_shim.intake import Intake
from workers_shim.last_will import LastWill
from workers_shim.orders import Orders
from workers_shim.outbox import Outbox
from workers_shim.pausing_clock import PausingClock
from workers_shim.repair import Repair

_log = logging.getLogger(__name__)


class Connections:
    """One pair a worker.

    Args:
        models: those that are served now, by name.
        clock: runs while requests can come and answers can go.
        listener: hears what controllers and namesakes say.

    Raises: ValueError with a sentence, for a broker's address that cannot be.
    """

    def __init__(
        self,
        config: SessionConfig,
        instance: str,
        topology: Topology,
        models: Mapping[str, ModelCard],
        clock: PausingClock,
        custody: Custody,
        outbox: Outbox,
        announcer: Announcer,
        orders: Orders,
        listener: ControlListener,
        garbage: GarbageBin,
    ) -> None:
        addresses = parse_broker_url(config.broker_url, config.tls)
        name = config.name
        self._publish = Connection(
            addresses, name=f"{name} publish", on_connected=self._publish_connected, on_blocked=self._blocked
        )
        self._consume = Connection(addresses, name=f"{name} consume", on_connected=self._consume_connected)
        self._worker = name
        self._topology = topology
        self._models = models
        self._clock = clock
        self._custody = custody
        self._outbox = outbox
        self._announcer = announcer
        self._repair = Repair(name, self._open_again)
        self.intake = Intake(
            topology,
            name,
            config.slots,
            models,
            take=custody.take,
            on_closed=self._requests_closed,
            on_queue_lost=self._request_queue_lost,
            on_made=announcer.queue_made,
        )
        self.will = LastWill(topology, name, instance, garbage, self._repair.ask)
        self._control = Control(topology, name, instance, orders, listener, garbage, self._repair.ask)
        self._opening = asyncio.Lock()
        self._consuming: Session | None = None
        self._publishing: Session | None = None
        self._queue_lost = False

    async def run(self) -> None:
        """Keep everything open until cancelled, which closes both connections in order."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self._publish.run(), self._consume.run(), self._repair.run()):
                tasks.create_task(work)

    async def add_model(self, name: str) -> None:
        """Hear of a model and take its requests, too; without a connection, from the next one on."""
        async with self._opening:
            try:
                await self._control.add_model(name)
                await self.intake.add_model(name, self._consuming if self.intake.open else None)
            except BrokerError as error:
                _log.warning("model not declared yet model=%s reason=%s", name, error)
                self._request_queue_lost()

    async def remove_model(self, name: str) -> None:
        """Neither any longer."""
        async with self._opening:
            self.intake.remove_model(name)
            try:
                await self._control.remove_model(name)
            except BrokerError as error:
                _log.debug("model not unbound model=%s reason=%s", name, error)

    # --- the publishing connection

    async def _publish_connected(self, session: Session) -> None:
        self._publishing = session
        # To a missing exchange the broker answers by closing the channel, and this connection may be the first one.
        await declare_topology(session, self._topology.exchanges())
        await self._open_publishing(session)
        self._consume.hurry()
        if not self.intake.open:
            await self._take_requests()

    async def _take_requests(self) -> None:
        """Requests are taken only once they can be answered."""
        # Not asked whether it is connected: a session that has just looked for a way out, and was too early, is about
        # to be, and would take none. What has gone raises.
        if self._consuming is None:
            return
        try:
            async with self._opening:
                # The consuming connection may have done it while this waited, and announced it.
                if not self.intake.open:
                    await self._open_consuming(self._consuming)
        except BrokerError:
            self._repair.ask()

    async def _open_publishing(self, session: Session) -> None:
        channel = await session.channel(confirms=True, on_closed=self._publishing_closed)
        self._announcer.attach(channel)
        self._outbox.attach(channel)
        self.will.attach(channel)
        self._ready_or_not()

    def _publishing_closed(self, reason: ChannelClosedError) -> None:
        self._clock.stop()
        self._announcer.detach()
        self._outbox.detach()
        self.will.detach()
        if reason.code:
            _log.warning("channel closed by the broker worker=%s channel=publish reason=%s", self._worker, reason)
            self._repair.ask()

    def _blocked(self, blocked: bool) -> None:
        self._outbox.set_blocked(blocked)
        self._announcer.set_blocked(blocked)
        if blocked:
            self._clock.stop()
        else:
            self._ready_or_not()

    # --- the consuming connection

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
        if not self.will.open:
            await self.will.start(session)
        if not self.intake.open and self._announcer.attached:
            self._queue_lost = False
            await self.intake.start(session)
        elif self._queue_lost:
            # Cleared first: another queue may be lost while these are declared.
            self._queue_lost = False
            try:
                await self.intake.restore(session)
            except BrokerError:
                self._queue_lost = True
                raise
        self._ready_or_not()

    def _requests_closed(self) -> None:
        self._clock.stop()
        self._custody.voided()
        self._announcer.requests_requeued()
        self._repair.ask()

    def _request_queue_lost(self) -> None:
        self._queue_lost = True
        self._repair.ask()

    # --- both

    def _ready_or_not(self) -> None:
        """Announce as soon as both ways stand; waiting times count only while they do."""
        if self._announcer.attached and not self._publish.blocked and self.intake.open:
            self._clock.go_on()
            self._announcer.announce()

    async def _open_again(self) -> bool:
        """What the broker closed while the connection stands; a lost connection comes back by itself.

        Returns: False while one is not ready. What is lost while it is made ready is not noticed there any more.
        """
        if self._consuming is not None and self._consume.connected:
            async with self._opening:
                await self._open_consuming(self._consuming)
        if self._publishing is not None and self._publish.connected and not self._announcer.attached:
            await self._open_publishing(self._publishing)
        return self._consume.connected and self._publish.connected
