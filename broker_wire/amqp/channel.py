"""A channel: what a program does on the broker, as calls and awaitables.

Frames leave in the order of the calls, always, so a nack after a cancel reaches the broker after it. Made by
`Session.channel`; all of it runs on the connection's event loop, callbacks too.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from pika import spec
from pika.amqp_object import Method
from pika.exchange_type import ExchangeType

from broker_wire import topology
from broker_wire.amqp import frames
from broker_wire.amqp.confirms import Confirms, OnOutcome, Outcome, Settled
from broker_wire.amqp.delivery import Delivery, OnDelivery, QueueState
from broker_wire.amqp.link import Link
from broker_wire.amqp.raw_channel import ChannelState, RawChannel
from broker_wire.codec import CONTENT_TYPE
from broker_wire.errors import (
    ChannelClosedError,
    MessageTooLargeError,
    NotConnectedError,
    QueueFullError,
    UnroutableError,
)

__all__ = ["HIGH_WATER", "Channel", "Delivery", "OnDelivery", "OnOutcome", "Outcome", "QueueState"]

HIGH_WATER = 4 * 1024 * 1024
"""Bytes unconfirmed and in the socket's buffer above which `writable` waits."""
LOW_WATER = HIGH_WATER // 2
"""Bytes at which it goes on: once stopped, a producer writes a good piece again, not one message."""

# RabbitMQ 4.0: max_message_size is 16 MiB by default; 128 MiB before.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_MESSAGE_BYTES_BEFORE_4 = 128 * 1024 * 1024

_CANCEL: Any = spec.Basic.Cancel  # the stubs have its tag as a number


class _Consumer(Struct, eq=False):
    on_delivery: OnDelivery
    on_cancelled: Callable[[str], None]
    cancelled: bool = False


def _ignore(*_: object) -> None: ...


class Channel(RawChannel):
    """Everything that is done on the broker. It is the sole owner of its consumers, delivery tags and confirms."""

    def __init__(
        self, link: Link, number: int, *, confirms: bool, on_closed: Callable[[ChannelClosedError], None] = _ignore
    ) -> None:
        super().__init__(link, number, on_closed)
        self._confirms = Confirms() if confirms else None
        self._consumers: dict[str, _Consumer] = {}
        self._consumers_made = 0
        self._prefetch = 0
        self._writers: list[asyncio.Future[None]] = []
        self._max_message = MAX_MESSAGE_BYTES if link.server_version >= (4,) else MAX_MESSAGE_BYTES_BEFORE_4

    async def start(self) -> None:
        await super().start()
        if self._confirms is not None:
            await self._rpc(spec.Confirm.Select(), spec.Confirm.SelectOk)

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
        on_cancelled: Callable[[str], None] = _ignore,
    ) -> str:
        """Start a consumer, and wait until the broker has it. See `consume_soon`. Raises: BrokerError."""
        tag, method = self._begin_consumer(queue_name, on_delivery, prefetch, no_ack, exclusive, on_cancelled)
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

    # --- publishing ---

    def publish(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        type: str,  # noqa: A002, the property's name
        mandatory: bool = False,
        expiration: float | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        message_id: str | None = None,
        headers: Mapping[str, Any] | None = None,
        persistent: bool = False,
        on_outcome: OnOutcome | None = None,
    ) -> None:
        """Send a message at once, or hand it to the socket's buffer; `writable` keeps that bounded.

        Args:
            expiration: seconds after which a queue drops it.
            on_outcome: called exactly once, unless this raises; only on a channel with confirms.

        Raises: NotConnectedError, MessageTooLargeError (both: nothing was sent), ValueError for a text that AMQP
            cannot carry.
        """
        if self.state is not ChannelState.OPEN:
            raise self._not_connected()
        size = len(body)
        if size > self._max_message:
            raise MessageTooLargeError(size, self._max_message)
        confirms = self._confirms
        properties = frames.encode_properties(
            content_type=CONTENT_TYPE,
            type=type,
            persistent=persistent,
            headers=headers,
            correlation_id=correlation_id,
            reply_to=reply_to,
            expiration=None if expiration is None else str(max(0, math.ceil(expiration * 1000))),
            message_id=message_id,
            # A return has no number of its own: this is how it is told which publish came back.
            app_id=str(confirms.next_tag) if mandatory and confirms is not None else None,
        )
        link = self._link
        # One write for the three frames, so one segment and one system call.
        data = frames.encode_publish(self.number, exchange, key, mandatory) + b"".join(
            frames.encode_content(self.number, properties, body, link.body_max)
        )
        link.send(data)
        if confirms is not None:
            confirms.published(len(data), on_outcome)

    async def publish_confirmed(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        type: str,  # noqa: A002, the property's name
        timeout: float,
        mandatory: bool = False,
        expiration: float | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        message_id: str | None = None,
        headers: Mapping[str, Any] | None = None,
        persistent: bool = False,
    ) -> None:
        """Publish, and wait for the broker's answer, `timeout` seconds at most. The channel must have confirms.

        Raises: UnroutableError, QueueFullError, ChannelClosedError or NotConnectedError (it may have arrived),
            MessageTooLargeError, TimeoutError (it may arrive yet).
        """
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def on_outcome(outcome: Outcome) -> None:
            if not settled.done():
                settled.set_result(outcome)

        self.publish(
            exchange,
            key,
            body,
            type=type,
            mandatory=mandatory,
            expiration=expiration,
            correlation_id=correlation_id,
            reply_to=reply_to,
            message_id=message_id,
            headers=headers,
            persistent=persistent,
            on_outcome=on_outcome,
        )
        async with asyncio.timeout(timeout):
            outcome = await settled
        match outcome:
            case Outcome.RETURNED:
                raise UnroutableError(f"no queue is bound to {exchange!r} for routing key {key!r}")
            case Outcome.NACKED:
                raise QueueFullError(f"a queue bound to {exchange!r} for routing key {key!r} is full")
            case Outcome.LOST:
                raise self._why_closed
            case Outcome.CONFIRMED:
                return

    @property
    def unconfirmed_bytes(self) -> int:
        """Published on this channel and not answered by the broker, with all that a message costs on the wire."""
        return 0 if self._confirms is None else self._confirms.unconfirmed_bytes

    @property
    def congested(self) -> bool:
        """Whether `writable` would wait: the connection is blocked, or too much is under way."""
        return not self._has_room(HIGH_WATER)

    async def writable(self, timeout: float) -> None:
        """Wait while too much is under way or the broker has blocked the connection.

        Raises: TimeoutError after `timeout` seconds; NotConnectedError, ChannelClosedError.
        """
        if self.open and self._has_room(HIGH_WATER):
            return
        async with asyncio.timeout(timeout):
            while self.open and not self._has_room(LOW_WATER):
                writer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._writers.append(writer)
                await writer
        if not self.open:
            raise self._why_closed

    def wake_writers(self) -> None:
        """Something may have changed: the socket drained, the broker unblocked or answered."""
        if self._writers and (not self.open or self._has_room(LOW_WATER)):
            writers, self._writers = self._writers, []
            for writer in writers:
                if not writer.done():
                    writer.set_result(None)

    # --- what the broker says ---

    def _on_delivered(self, deliver: frames.Deliver, properties: frames.Properties, body: bytes) -> None:
        consumer_tag, tag, redelivered, exchange, routing_key = deliver
        consumer = self._consumers.get(consumer_tag)
        if consumer is not None:
            delivery = Delivery(self, tag, consumer_tag, body, redelivered, exchange, routing_key, *properties[:6])
            self._guarded(consumer.on_delivery, delivery)

    def _on_returned(self, properties: frames.Properties) -> None:
        if self._confirms is not None and properties.app_id is not None:
            self._confirms.returned(int(properties.app_id))

    def _on_confirm(self, taken: bool, tag: int, multiple: bool) -> None:
        if self._confirms is not None:
            settle = self._confirms.acked if taken else self._confirms.nacked
            self._report(settle(tag, multiple))

    def _on_consumer_cancelled(self, tag: str) -> None:
        consumer = self._consumers.pop(tag, None)
        if consumer is not None and not consumer.cancelled:
            self._guarded(consumer.on_cancelled, tag)

    def _on_consumer_gone(self, tag: str) -> None:
        self._consumers.pop(tag, None)

    def _on_shut(self) -> None:
        self._consumers.clear()
        self.wake_writers()
        if self._confirms is not None:
            self._report(self._confirms.lost())

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

    def _cancel(self, tag: str) -> asyncio.Future[Method] | None:
        consumer = self._consumers.get(tag)
        if consumer is None or consumer.cancelled or not self.open:
            return None
        consumer.cancelled = True
        return self._call(_CANCEL(consumer_tag=tag), spec.Basic.CancelOk, tag)

    def _settle(self, method: int, tag: int, bits: int) -> None:
        if self.state is ChannelState.OPEN:
            self._link.send(frames.encode_settlement(self.number, method, tag, bits))

    def _has_room(self, mark: int) -> bool:
        return not self._link.blocked and self.unconfirmed_bytes + self._link.buffered_bytes <= mark

    def _report(self, settled: Settled) -> None:
        for on_outcome, outcome in settled:
            self._guarded(on_outcome, outcome)
        if self._writers:
            self.wake_writers()

    def _not_connected(self) -> NotConnectedError:
        why = self._why_closed
        return why if isinstance(why, NotConnectedError) else NotConnectedError(str(why))
