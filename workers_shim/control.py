"""What controllers, and other workers of the same name, say to this one. Decodes, and calls whom it concerns."""

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from broker_wire import codec
from broker_wire.amqp import Channel, Delivery, Session
from broker_wire.errors import ChannelClosedError, GarbageError
from broker_wire.garbage import GarbageBin
from broker_wire.messages import (
    PROTOCOL_VERSION,
    Announce,
    Cancel,
    Done,
    Drain,
    Go,
    Goodbye,
    Introduce,
    Pause,
    Question,
    Refuse,
    Resend,
    Resume,
    RollCall,
    Stop,
)
from broker_wire.topology import Topology
from workers_shim.held import check_controller
from workers_shim.orders import Orders

_log = logging.getLogger(__name__)


class ControlListener(Protocol):
    """What concerns the worker as a whole."""

    def on_controller_spoke(self, controller: str) -> None:
        """Any message of this controller."""

    def on_roll_call(self) -> None:
        """Everybody announces."""

    def on_introduce(self) -> None:
        """This worker announces."""

    def on_question(self, question: Question) -> None:
        """Something is asked about a model."""

    def on_drain(self) -> None:
        """This worker leaves in order."""

    def on_first_announce(self, other: Announce) -> None:
        """Some process claims this worker's name: another one, or this one itself."""

    def on_namesake(self, other: Announce) -> None:
        """Another process speaks under this worker's name, and does not claim it at this moment."""


class Control:
    """One a worker. `on_closed` is called when its channel went; `start` it again."""

    def __init__(
        self,
        topology: Topology,
        worker: str,
        instance: str,
        orders: Orders,
        listener: ControlListener,
        garbage: GarbageBin,
        on_closed: Callable[[], None],
    ) -> None:
        self._topology = topology
        self._worker = worker
        self._instance = instance
        self._orders = orders
        self._listener = listener
        self._garbage = garbage
        self._on_closed = on_closed
        self._channel: Channel | None = None
        self._queue_name = ""
        self._listening = False

    @property
    def open(self) -> bool:
        """Whether anything would be heard."""
        return self._listening

    async def start(self, session: Session, models: Iterable[str]) -> None:
        """Make this connection's queue, and listen. Raises: BrokerError."""
        channel = self._channel
        if channel is None or not channel.open:
            channel = self._channel = await session.channel(on_closed=self._closed)
        queue = self._topology.worker_control_queue(self._instance)
        name = (await channel.declare_queue(queue)).name
        await channel.bind(name, queue.exchange, queue.routing_key)
        await channel.bind(name, self._topology.control, self._topology.all_workers_key)
        for model in models:
            await channel.bind(name, self._topology.control, self._topology.model_key(model))
        for kind in ("first", "announce", "goodbye"):
            await channel.bind(name, self._topology.fleet, self._topology.fleet_key(kind, self._worker))
        await channel.consume(name, self._on_delivery, no_ack=True, on_cancelled=self._cancelled)
        self._queue_name, self._listening = name, True

    async def add_model(self, model: str) -> None:
        """Hear what is said to all workers of this model. Raises: BrokerError."""
        if self._channel is not None and self._listening:
            await self._channel.bind(self._queue_name, self._topology.control, self._topology.model_key(model))

    async def remove_model(self, model: str) -> None:
        """Hear it no longer. Raises: BrokerError."""
        if self._channel is not None and self._listening:
            await self._channel.unbind(self._queue_name, self._topology.control, self._topology.model_key(model))

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            if delivery.exchange == self._topology.fleet:
                self._on_namesake(delivery)
            else:
                self._on_control(delivery)
        except GarbageError as error:
            self._garbage.drop("control", error)

    def _on_namesake(self, delivery: Delivery) -> None:
        message = codec.decode_fleet(delivery.body, delivery.content_type)
        match message:
            case Announce(worker=self._worker, first=True):
                self._listener.on_first_announce(message)
            case Announce(worker=self._worker) if message.instance != self._instance:
                self._listener.on_namesake(message)
            case Goodbye(worker=self._worker) if message.instance != self._instance:
                _log.warning(
                    "name given up by another instance worker=%s other=%s reason=%s",
                    self._worker,
                    message.instance,
                    message.reason,
                )

    def _on_control(self, delivery: Delivery) -> None:
        message = codec.decode_control(delivery.body, delivery.content_type)
        check_controller(message.controller)
        orders = self._orders
        self._listener.on_controller_spoke(message.controller)
        match message:
            case Done():
                orders.done(message)
            case Go():
                orders.go(message)
            case Stop():
                orders.stop(message)
            case Cancel():
                orders.cancel(message)
            case Resend():
                orders.resend(message)
            case Pause() | Resume():
                orders.pause((message.controller, message.stream), isinstance(message, Pause))
            case RollCall():
                self._listener.on_roll_call()
            case Introduce():
                self._listener.on_introduce()
            case Question():
                self._listener.on_question(message)
            case Drain():
                self._listener.on_drain()
            case Refuse():
                _log.error(
                    "refused by a controller worker=%s controller=%s our_protocol=%s reason=%s",
                    self._worker,
                    message.controller,
                    PROTOCOL_VERSION,
                    message.reason,
                )

    def _cancelled(self, _tag: str) -> None:
        """Its queue was deleted by somebody."""
        _log.warning("control queue gone worker=%s", self._worker)
        self._listening = False
        self._on_closed()

    def _closed(self, reason: ChannelClosedError) -> None:
        self._channel = None
        self._listening = False
        if reason.code:
            _log.warning("channel closed by the broker worker=%s channel=control reason=%s", self._worker, reason)
        self._on_closed()
