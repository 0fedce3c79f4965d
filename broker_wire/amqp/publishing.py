"""Publishing on a channel: confirms, returns, and the bound of what is under way.

The half of `Channel` that sends messages; it knows nothing of queues and consumers.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any

from pika import spec

from broker_wire.amqp import frames
from broker_wire.amqp.confirms import Confirms, OnOutcome, Outcome, Settled
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

HIGH_WATER = 4 * 1024 * 1024
"""Bytes unconfirmed and in the socket's buffer above which `writable` waits."""
LOW_WATER = HIGH_WATER // 2
"""Bytes at which it goes on: once stopped, a producer writes a good piece again, not one message."""

# RabbitMQ 4.0: max_message_size is 16 MiB by default; 128 MiB before.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_MESSAGE_BYTES_BEFORE_4 = 128 * 1024 * 1024


class PublishingChannel(RawChannel):
    """With `confirms` every publish gets its outcome. It is the sole owner of the numbers of its publishes."""

    def __init__(
        self, link: Link, number: int, *, confirms: bool, on_closed: Callable[[ChannelClosedError], None]
    ) -> None:
        super().__init__(link, number, on_closed)
        self._confirms = Confirms() if confirms else None
        self._writers: list[asyncio.Future[None]] = []
        self._max_message = MAX_MESSAGE_BYTES if link.server_version >= (4,) else MAX_MESSAGE_BYTES_BEFORE_4

    async def start(self) -> None:
        await super().start()
        if self._confirms is not None:
            await self._rpc(spec.Confirm.Select(), spec.Confirm.SelectOk)

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
                raise self._reason()
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
            raise self._reason()

    def wake_writers(self) -> None:
        """Something may have changed: the socket drained, the broker unblocked or answered."""
        if self._writers and (not self.open or self._has_room(LOW_WATER)):
            writers, self._writers = self._writers, []
            for writer in writers:
                if not writer.done():
                    writer.set_result(None)

    # --- what the broker says ---

    def _on_returned(self, properties: frames.Properties) -> None:
        if self._confirms is not None and properties.app_id is not None:
            self._confirms.returned(int(properties.app_id))

    def _on_confirm(self, taken: bool, tag: int, multiple: bool) -> None:
        if self._confirms is not None:
            settle = self._confirms.acked if taken else self._confirms.nacked
            self._report(settle(tag, multiple))

    def _on_shut(self) -> None:
        self.wake_writers()
        if self._confirms is not None:
            self._report(self._confirms.lost())

    def _has_room(self, mark: int) -> bool:
        return not self._link.blocked and self.unconfirmed_bytes + self._link.buffered_bytes <= mark

    def _report(self, settled: Settled) -> None:
        for on_outcome, outcome in settled:
            self._guarded(on_outcome, outcome)
        if self._writers:
            self.wake_writers()

    def _not_connected(self) -> NotConnectedError:
        why = self._reason()
        return why if isinstance(why, NotConnectedError) else NotConnectedError(str(why))
