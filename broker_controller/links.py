"""The controller's two connections to the broker, and what is sent over them.

One publishes and one consumes: an alarm at the broker stops reading from whoever publishes, and replies must go on.
Used by `gateway` (requests, replies) and `fleet` (announces, roll-calls).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from broker_wire import codec
from broker_wire.amqp.addresses import BrokerAddresses
from broker_wire.amqp.channel import Channel, Outcome
from broker_wire.amqp.connection import Connection, Session
from broker_wire.amqp.declare import declare_topology
from broker_wire.amqp.delivery import Delivery
from broker_wire.errors import BrokerError, NotConnectedError
from broker_wire.messages import Batch, ControlMessage, FleetMessage, Generate, KeptMessage
from broker_wire.topology import Queue, Topology

_log = logging.getLogger(__name__)

KNOCK_INTERVAL = 1.0
"""Seconds between two messages to nobody."""


class Links:
    """Both connections. `run` keeps them open; whoever needs to act on a reconnect adds itself to the lists."""

    def __init__(self, addresses: BrokerAddresses, topology: Topology, *, name: str) -> None:
        self.topology = topology
        self.on_consumer_up: list[Callable[[Session], Awaitable[None]]] = []
        self.on_both_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.on_blocked: list[Callable[[bool], None]] = []
        self.ever_connected = False
        self._sending: Channel | None = None
        self._publisher = Connection(
            addresses,
            name=f"{name} publish",
            on_connected=self._publisher_up,
            on_lost=self._publisher_lost,
            on_blocked=self._tell_blocked,
        )
        self._consumer = Connection(
            addresses, name=f"{name} consume", on_connected=self._consumer_up, on_lost=self._consumer_lost
        )
        self._consuming = False
        self._knocking = False

    async def run(self) -> None:
        """Keep both connections open until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publisher.run(), name="publish connection")
            tasks.create_task(self._consumer.run(), name="consume connection")
            tasks.create_task(self._knock(), name="knocks")

    @property
    def up(self) -> bool:
        """Both connections are open and everything is declared."""
        return self._consuming and self._sending is not None and self._sending.open

    @property
    def blocked(self) -> bool:
        """The broker holds publishers back (memory or disk alarm)."""
        return self._publisher.blocked

    @property
    def server_version(self) -> tuple[int, ...]:
        """The broker's, () before the first connection."""
        return self._publisher.server_version

    @property
    def reconnects(self) -> int:
        """Connections that were lost and came back."""
        return sum(max(0, connection.established - 1) for connection in (self._publisher, self._consumer))

    @property
    def unconfirmed_bytes(self) -> int:
        """Published, and not yet taken by the broker."""
        return 0 if self._sending is None else self._sending.unconfirmed_bytes

    @property
    def problem(self) -> str:
        """A sentence about why the broker cannot be used now, "" when it can."""
        if self.blocked:
            return "the broker holds publishers back: it has a memory or disk alarm"
        if self.up:
            return ""
        error = self._publisher.last_error or self._consumer.last_error
        return str(error) if error else "the connection to the broker is not open yet"

    async def wait_up(self, timeout: float) -> None:
        """Until both connections are open.

        Raises: BrokerError, with the sentence that says why not.
        """
        deadline = time.monotonic() + timeout
        await self._publisher.wait_connected(timeout)
        await self._consumer.wait_connected(max(0.0, deadline - time.monotonic()))

    @staticmethod
    async def listen(session: Session, queue: Queue, on_delivery: Callable[[Delivery], None]) -> None:
        """Declare a queue of this process, bind and consume it. When it is lost, so is the connection: all begins anew.

        Raises: BrokerError.
        """
        what = f"the queue of {queue.exchange}"
        channel = await session.channel(on_closed=lambda reason: session.drop(f"{what}: {reason}"))
        state = await channel.declare_queue(queue)
        await channel.bind(state.name, queue.exchange, queue.routing_key)
        await channel.consume(
            state.name,
            on_delivery,
            no_ack=True,
            exclusive=True,
            on_cancelled=lambda _: session.drop(f"{what} was deleted"),
        )

    def send_request(self, key: str, request: Generate, on_outcome: Callable[[Outcome], None]) -> None:
        """Publish a request.

        Raises: NotConnectedError, MessageTooLargeError.
        """
        self._channel().publish(
            self.topology.requests,
            key,
            codec.encode(request),
            type=codec.type_of(Generate),
            mandatory=True,
            expiration=max(0.0, request.remaining),
            correlation_id=f"{request.controller}.{request.stream}",
            reply_to=request.controller,
            on_outcome=on_outcome,
        )

    def send_control(
        self, key: str, message: ControlMessage, on_outcome: Callable[[Outcome], None] | None = None
    ) -> None:
        """Publish a control message. Without a connection it is dropped: every rule of the protocol survives that."""
        self._send(self.topology.control, key, message, on_outcome)

    def send_kept(self, key: str, message: KeptMessage, on_outcome: Callable[[Outcome], None]) -> None:
        """Publish to the log of responses, or to their jobs; it outlives the broker's restart.

        Raises: NotConnectedError, MessageTooLargeError.
        """
        self._channel().publish(
            self.topology.responses,
            key,
            codec.encode(message),
            type=codec.type_of(message),
            mandatory=True,
            persistent=True,
            on_outcome=on_outcome,
        )

    def look_for_controller(self, controller: str, on_outcome: Callable[[Outcome], None]) -> None:
        """Send a controller an empty batch: returned where it has no reply queue. Raises: NotConnectedError."""
        self._channel().publish(
            self.topology.replies,
            controller,
            codec.encode(Batch("", [])),
            type=codec.type_of(Batch),
            mandatory=True,
            on_outcome=on_outcome,
        )

    @property
    def congested(self) -> bool:
        """More is under way to the broker than it takes, or there is no connection."""
        return self._sending is None or self._sending.congested

    def send_fleet(self, key: str, message: FleetMessage) -> None:
        """Publish what concerns all controllers."""
        self._send(self.topology.fleet, key, message, None)

    def _send(
        self,
        exchange: str,
        key: str,
        message: ControlMessage | FleetMessage,
        on_outcome: Callable[[Outcome], None] | None,
    ) -> None:
        try:
            self._channel().publish(
                exchange,
                key,
                codec.encode(message),
                type=codec.type_of(message),
                mandatory=on_outcome is not None,
                on_outcome=on_outcome,
            )
        except NotConnectedError:
            _log.debug("not sent for want of a connection type=%s key=%s", codec.type_of(message), key)
        except ValueError as error:
            # Keys are made from what workers say of themselves; one that cannot be a key has no queue, either.
            _log.warning("not sent type=%s key=%.80s reason=%s", codec.type_of(message), key, error)

    async def _knock(self) -> None:
        """Publish a message to nobody again and again: the broker tells of an alarm only whoever publishes.

        Else a controller whose streams all run would not hear of it, and would take their silence for a stall. One is
        under way at most; without a connection, and while the broker holds publishers back, none.
        """
        while True:
            await asyncio.sleep(KNOCK_INTERVAL)
            channel = self._sending
            if channel is None or not channel.open or self.blocked or self._knocking:
                continue
            self._knocking = True
            topology = self.topology
            channel.publish(topology.control, topology.nobody_key, b"", type="knock", on_outcome=self._knocked)

    def _knocked(self, _: Outcome) -> None:
        self._knocking = False

    def _channel(self) -> Channel:
        if self._sending is None or not self._sending.open:
            raise NotConnectedError("there is no connection to the broker at this moment")
        return self._sending

    async def _publisher_up(self, session: Session) -> None:
        await declare_topology(session, self.topology.exchanges())
        self._sending = await session.channel(confirms=True, on_closed=lambda _: self._reopen(session))
        self._consumer.hurry()
        self._tell_up()

    async def _consumer_up(self, session: Session) -> None:
        await declare_topology(session, self.topology.exchanges())
        for attach in self.on_consumer_up:
            await attach(session)
        self._consuming = True
        self._publisher.hurry()
        self._tell_up()

    def _reopen(self, session: Session) -> None:
        """The broker closed the publishing channel, not the connection: begin the connection anew."""
        self._sending = None
        session.drop("its channel was closed")

    def _tell_up(self) -> None:
        if self.up:
            self.ever_connected = True
            for tell in self.on_both_up:
                tell()

    def _publisher_lost(self, error: BrokerError) -> None:
        self._sending = None
        self._tell_down("publish", error)

    def _consumer_lost(self, error: BrokerError) -> None:
        self._consuming = False
        self._tell_down("consume", error)

    def _tell_down(self, which: str, error: BrokerError) -> None:
        _log.warning("connection lost which=%s reason=%s", which, error)
        for tell in self.on_down:
            tell()

    def _tell_blocked(self, blocked: bool) -> None:
        _log.warning("broker holds publishers back" if blocked else "broker takes messages again")
        for tell in self.on_blocked:
            tell(blocked)
