"""A channel: what a program does on the broker, as calls and awaitables.

Frames leave in the order of the calls, always, so a nack after a cancel reaches the broker after it. Made by
`Session.channel`; all of it runs on the connection's event loop, callbacks too.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from pika import spec
from pika.amqp_object import Method
from pika.exchange_type import ExchangeType

from broker_wire import topology
from broker_wire.amqp import frames
from broker_wire.amqp.confirms import OnOutcome, Outcome
from broker_wire.amqp.delivery import Delivery, OnDelivery, QueueState
from broker_wire.amqp.link import Link
from broker_wire.amqp.publishing import HIGH_WATER, PublishingChannel
from broker_wire.amqp.raw_channel import RPC_TIMEOUT, ChannelState
from broker_wire.errors import ChannelClosedError

__all__ = ["HIGH_WATER", "Channel", "Delivery", "OnDelivery", "OnOutcome", "Outcome", "QueueState"]

_CANCEL: Any = spec.Basic.Cancel  # the stubs have its tag as a number


class _Consumer(Struct, eq=False):
    on_delivery: OnDelivery
    on_cancelled: Callable[[str], None]
    cancelled: bool = False


class _Get(Struct, eq=False):
    on_message: OnDelivery
    on_empty: Callable[[], None]
    asked_at: float


def _ignore(*_: object) -> None: ...


class Channel(PublishingChannel):
    """Everything that is done on the broker. It is the sole owner of its consumers and of its deliveries' tags."""

    def __init__(
        self, link: Link, number: int, *, confirms: bool, on_closed: Callable[[ChannelClosedError], None] = _ignore
    ) -> None:
        super().__init__(link, number, confirms=confirms, on_closed=on_closed)
        self._consumers: dict[str, _Consumer] = {}
        self._consumers_made = 0
        self._prefetch = 0
        self._gets: deque[_Get] = deque()
        self._get_timer: asyncio.TimerHandle | None = None

    # --- topology ---

    async def declare_exchange(self, name: str, kind: str, passive: bool = False) -> None:
        """A durable exchange; `passive` only looks whether it is there. Raises: BrokerError."""
        await self._rpc(
            spec.Exchange.Declare(exchange=name, type=ExchangeType(kind), passive=passive, durable=True),
            spec.Exchange.DeclareOk,
        )

    async def declare_queue(self, queue: topology.Queue, passive: bool = False) -> QueueState:
        """A durable queue, or an exclusive one; it is not bound. `passive` only looks. Raises: BrokerError."""
        method = spec.Queue.Declare(
            queue=queue.name,
            passive=passive,
            # RabbitMQ 4.3 refuses queues that are neither durable nor exclusive.
            durable=not queue.exclusive,
            exclusive=queue.exclusive,
            arguments=queue.arguments,
        )
        ok = await self._rpc(method, spec.Queue.DeclareOk)
        return QueueState(str(ok.queue), ok.message_count or 0, ok.consumer_count or 0)

    async def bind(self, queue_name: str, exchange: str, key: str) -> None:
        """Raises: BrokerError."""
        method = spec.Queue.Bind(queue=queue_name, exchange=exchange, routing_key=key)
        await self._rpc(method, spec.Queue.BindOk)

    async def unbind(self, queue_name: str, exchange: str, key: str) -> None:
        """Raises: BrokerError."""
        method = spec.Queue.Unbind(queue=queue_name, exchange=exchange, routing_key=key)
        await self._rpc(method, spec.Queue.UnbindOk)

    async def delete_queue(self, name: str) -> None:
        """With what is in it; a queue that is not there is no error. Raises: BrokerError."""
        await self._rpc(spec.Queue.Delete(queue=name), spec.Queue.DeleteOk)

    async def purge(self, name: str) -> int:
        """Returns: how many messages were dropped. Raises: BrokerError."""
        return (await self._rpc(spec.Queue.Purge(queue=name), spec.Queue.PurgeOk)).message_count or 0

    # --- consuming ---

    async def consume(
        self,
        queue_name: str,
        on_delivery: OnDelivery,
        *,
        prefetch: int = 0,
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        on_cancelled: Callable[[str], None] = _ignore,
    ) -> str:
        """Start a consumer, and wait until the broker has it. See `consume_soon`. Raises: BrokerError.

        `arguments`: of the consumer; that of a stream says where it begins.
        """
        tag, method = self._begin_consumer(queue_name, on_delivery, prefetch, no_ack, exclusive, on_cancelled)
        method.arguments = arguments
        await self._answer(self._call(method, spec.Basic.ConsumeOk, tag), "basic.consume")
        return tag

    def consume_soon(
        self,
        queue_name: str,
        on_delivery: OnDelivery,
        *,
        prefetch: int = 0,
        no_ack: bool = False,
        exclusive: bool = False,
        on_cancelled: Callable[[str], None] = _ignore,
    ) -> str:
        """Start a consumer without waiting.

        Args:
            prefetch: deliveries that this consumer may hold unacked; 0 is no bound.
            on_cancelled: called with the tag when the *broker* ends the consumer (its queue was deleted, its node
                left). A queue that is not there closes the channel.

        Returns: the consumer tag. Raises: NotConnectedError.
        """
        tag, method = self._begin_consumer(queue_name, on_delivery, prefetch, no_ack, exclusive, on_cancelled)
        # Without an answer, since RabbitMQ's channel crashes (541, and the whole connection with it) on a cancel that
        # comes before its consume was answered; seen with 3.10.8.
        method.nowait = True
        self._link.send_method(self.number, method)
        return tag

    def cancel(self, tag: str) -> None:
        """End a consumer, without waiting; an unknown tag is ignored.

        What is on its way is still delivered until the broker has answered, and has to be settled like any other.
        """
        self._cancel(tag)

    async def cancel_and_wait(self, tag: str) -> None:
        """End a consumer; when this returns, nothing more is delivered. Raises: BrokerError."""
        cancelled = self._cancel(tag)
        if cancelled is not None:
            await self._answer(cancelled, "basic.cancel")

    def get_soon(self, queue_name: str, on_message: OnDelivery, on_empty: Callable[[], None]) -> None:
        """Ask for one message, without waiting; answers come in the order of the questions.

        A queue that is not there closes the channel, and so does a broker that does not answer for 15 s; then neither
        is called. No prefetch counts it. Raises: NotConnectedError.
        """
        if self.state is not ChannelState.OPEN:
            raise self._not_connected()
        self._link.send_method(self.number, spec.Basic.Get(queue=queue_name))
        self._gets.append(_Get(on_message, on_empty, time.monotonic()))
        if self._get_timer is None:
            self._get_timer = asyncio.get_running_loop().call_later(RPC_TIMEOUT, self._look_at_gets)

    def ack(self, tag: int) -> None:
        """Done. On a closed channel nothing happens: the broker has requeued the message."""
        self._settle(frames.ACK, tag, 0)

    def nack(self, tag: int, requeue: bool = True) -> None:
        """Give it back. On a closed channel nothing happens."""
        # Bits of basic.nack: multiple, requeue.
        self._settle(frames.NACK, tag, 2 if requeue else 0)

    def reject(self, tag: int, requeue: bool = False) -> None:
        """Drop it, or dead-letter it where the queue says so. On a closed channel nothing happens."""
        self._settle(frames.REJECT, tag, 1 if requeue else 0)

    # --- what the broker says ---

    def _on_delivered(self, deliver: frames.Deliver, properties: frames.Properties, body: bytes) -> None:
        consumer_tag, tag, redelivered, exchange, routing_key = deliver
        consumer = self._consumers.get(consumer_tag)
        if consumer is not None:
            delivery = Delivery(self, tag, consumer_tag, body, redelivered, exchange, routing_key, *properties[:6])
            self._guarded(consumer.on_delivery, delivery)
        elif not consumer_tag and self._gets:
            delivery = Delivery(self, tag, "", body, redelivered, exchange, routing_key, *properties[:6])
            self._guarded(self._gets.popleft().on_message, delivery)

    def _on_get_empty(self) -> None:
        if self._gets:
            self._guarded(self._gets.popleft().on_empty)

    def _on_consumer_cancelled(self, tag: str) -> None:
        consumer = self._consumers.pop(tag, None)
        if consumer is not None and not consumer.cancelled:
            self._guarded(consumer.on_cancelled, tag)

    def _on_consumer_gone(self, tag: str) -> None:
        self._consumers.pop(tag, None)

    def _on_shut(self) -> None:
        self._consumers.clear()
        self._gets.clear()
        if self._get_timer is not None:
            self._get_timer.cancel()
        super()._on_shut()

    # --- inside ---

    def _begin_consumer(
        self,
        queue_name: str,
        on_delivery: OnDelivery,
        prefetch: int,
        no_ack: bool,
        exclusive: bool,
        on_cancelled: Callable[[str], None],
    ) -> tuple[str, spec.Basic.Consume]:
        if self.state is not ChannelState.OPEN:
            raise self._not_connected()
        if prefetch != self._prefetch:
            # It counts for the consumers that start after it, each by itself.
            self._call(spec.Basic.Qos(prefetch_count=prefetch), spec.Basic.QosOk)
            self._prefetch = prefetch
        self._consumers_made += 1
        tag = f"{self.number}.{self._consumers_made}"
        self._consumers[tag] = _Consumer(on_delivery, on_cancelled)
        return tag, spec.Basic.Consume(queue=queue_name, consumer_tag=tag, no_ack=no_ack, exclusive=exclusive)

    def _look_at_gets(self) -> None:
        self._get_timer = None
        if not self._gets:
            return
        left = self._gets[0].asked_at + RPC_TIMEOUT - time.monotonic()
        if left <= 0:
            self.abandon(f"the broker did not answer basic.get within {RPC_TIMEOUT:g} s")
        else:
            self._get_timer = asyncio.get_running_loop().call_later(left, self._look_at_gets)

    def _cancel(self, tag: str) -> asyncio.Future[Method] | None:
        consumer = self._consumers.get(tag)
        if consumer is None or consumer.cancelled or not self.open:
            return None
        consumer.cancelled = True
        return self._call(_CANCEL(consumer_tag=tag), spec.Basic.CancelOk, tag)

    def _settle(self, method: int, tag: int, bits: int) -> None:
        if self.state is ChannelState.OPEN:
            self._link.send(frames.encode_settlement(self.number, method, tag, bits))
