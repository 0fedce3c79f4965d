"""A worker played by hand, over a real connection: a test decides when it takes, answers, dies or lies."""

import asyncio
from types import TracebackType
from typing import Self

import pika
from msgspec import Struct

from broker_wire import codec
from broker_wire.amqp.addresses import parse_broker_url
from broker_wire.amqp.channel import Channel, Delivery, Outcome
from broker_wire.amqp.connection import Connection, Session
from broker_wire.amqp.declare import declare_queues, declare_topology
from broker_wire.messages import (
    Announce,
    Batch,
    ControlMessage,
    FleetMessage,
    Frame,
    Generate,
    ModelCard,
    Obituary,
)
from broker_wire.topology import Topology

WITHIN = 15.0
"""Seconds that a test waits for what has to come."""


class HandWorker:
    """One worker with one model. `deliveries` and `control` are what came; the rest is up to the test."""

    def __init__(self, url: str, topology: Topology, name: str, model: str, *, prefetch: int = 10) -> None:
        self.name = name
        self.instance = f"instance-of-{name}"
        self.deliveries: asyncio.Queue[Delivery] = asyncio.Queue()
        self.control: asyncio.Queue[ControlMessage] = asyncio.Queue()
        self.returned = 0
        self._url = url
        self._topology = topology
        self._model = model
        self._prefetch = prefetch
        self._channel: Channel
        self._session: Session
        self._connection = Connection(parse_broker_url(url), name=name, on_connected=self._connected)
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._connection.run())
        await self._connection.wait_connected(WITHIN)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.die()

    async def die(self) -> None:
        """The connection closes, as when the process is killed: unacked messages go back to their queue."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _connected(self, session: Session) -> None:
        self._session = session
        await declare_topology(session, self._topology.exchanges())
        await self.declare()
        self._channel = await session.channel(confirms=True)
        control = self._topology.worker_control_queue(self.instance)
        state = await self._channel.declare_queue(control)
        for key in (control.routing_key, self._topology.all_workers_key, self._topology.model_key(self._model)):
            await self._channel.bind(state.name, control.exchange, key)
        await self._channel.consume(state.name, self._on_control, no_ack=True)

    async def declare(self) -> None:
        """Make the queues that a worker makes."""
        await declare_queues(
            self._session,
            [
                self._topology.model_queue(self._model),
                self._topology.resume_queue(self._model),
                self._topology.own_queue(self.name, self._model),
                self._topology.pinned_queue(self.name),
            ],
        )

    async def delete_queue(self, role: str) -> None:
        """As an admin would: "model" or "resume"."""
        queue = self._topology.model_queue(self._model) if role == "model" else self._topology.resume_queue(self._model)
        await self._channel.delete_queue(queue.name)

    def _on_control(self, delivery: Delivery) -> None:
        self.control.put_nowait(codec.decode_control(delivery.body, delivery.content_type))

    async def consume(self, *queues: str) -> None:
        """Take from the queues of that role: model, resume, own, pinned."""
        names = {
            "model": self._topology.model_queue(self._model).name,
            "resume": self._topology.resume_queue(self._model).name,
            "own": self._topology.own_queue(self.name, self._model).name,
            "pinned": self._topology.pinned_queue(self.name).name,
        }
        for queue in queues:
            await self._channel.consume(names[queue], self.deliveries.put_nowait, prefetch=self._prefetch)

    async def take(self) -> tuple[Generate, Delivery]:
        """The next request."""
        delivery = await asyncio.wait_for(self.deliveries.get(), WITHIN)
        return codec.decode_request(delivery.body, delivery.content_type), delivery

    async def comes_nothing(self, within: float) -> bool:
        """No request, for so many seconds."""
        try:
            await asyncio.wait_for(self.deliveries.get(), within)
        except TimeoutError:
            return True
        return False

    async def told(self, kind: type[ControlMessage]) -> ControlMessage:
        """The next control message of this kind; others before it are passed over."""
        async with asyncio.timeout(WITHIN):
            while True:
                message = await self.control.get()
                if type(message) is kind:
                    return message

    def reply(self, controller: str, *frames: Frame) -> None:
        """Send a batch."""
        self.publish(self._topology.replies, controller, Batch(self.instance, list(frames)), mandatory=True)

    def announce(self, *, streams: bool = True, answers: tuple[str, ...] = (), **fields: object) -> None:
        """Say who it is."""
        models = (ModelCard(self._model, streams=streams, answers=answers),)
        message = Announce(self.name, self.instance, models=models, **fields)  # type: ignore[arg-type]
        self.say(message)

    def say(self, message: FleetMessage) -> None:
        """Tell all controllers."""
        key = self._topology.fleet_key(codec.type_of(message), self.name)
        self.publish(self._topology.fleet, key, message)

    def publish(self, exchange: str, key: str, message: Struct, *, mandatory: bool = False) -> None:
        """Send any message anywhere."""
        self.publish_bytes(exchange, key, codec.encode(message), codec.type_of(message), mandatory=mandatory)

    def publish_as_version(self, major: str, message: FleetMessage) -> None:
        """Tell all controllers something in another version of the protocol, by a client that is not ours."""
        properties = pika.BasicProperties(
            content_type=codec.CONTENT_TYPE.replace("v1", f"v{major}"), type=codec.type_of(message)
        )
        key = self._topology.fleet_key(codec.type_of(message), self.name)
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            connection.channel().basic_publish(self._topology.fleet, key, codec.encode(message), properties)

    def publish_bytes(self, exchange: str, key: str, body: bytes, kind: str, *, mandatory: bool = False) -> None:
        """Send any bytes anywhere."""
        self._channel.publish(exchange, key, body, type=kind, mandatory=mandatory, on_outcome=self._on_outcome)

    def ack(self, delivery: Delivery) -> None:
        """The request is done."""
        self._channel.ack(delivery.tag)

    async def make_will(self) -> None:
        """An obituary that the broker publishes when the connection closes."""
        will = self._topology.will_queue(self.name, self.instance)
        await declare_queues(self._session, [will])
        held = asyncio.Event()
        await self._channel.consume(will.name, lambda _: held.set(), prefetch=1)
        self.publish(will.exchange, will.routing_key, Obituary(self.name, self.instance))
        await asyncio.wait_for(held.wait(), WITHIN)

    def _on_outcome(self, outcome: Outcome) -> None:
        self.returned += outcome is Outcome.RETURNED
