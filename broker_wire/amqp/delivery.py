"""What arrives: a message as a consumer gets it, and what the broker says of a queue. Plain data."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from broker_wire.amqp.channel import Channel


class Delivery(Struct, frozen=True, eq=False):
    """A message. Settle it on its own channel: `delivery.channel.ack(delivery.tag)`."""

    channel: "Channel"
    tag: int
    consumer_tag: str
    body: bytes
    redelivered: bool
    exchange: str
    routing_key: str
    type: str | None
    content_type: str | None
    reply_to: str | None
    correlation_id: str | None
    message_id: str | None
    headers: dict[str, Any] | None

    @property
    def dead_lettered(self) -> bool:
        """It came by way of another queue, which expired or rejected it."""
        return self.headers is not None and "x-death" in self.headers


class QueueState(Struct, frozen=True):
    """What the broker says of a queue: its name, messages ready (not those unacked), consumers."""

    name: str
    ready: int
    consumers: int


OnDelivery = Callable[[Delivery], None]
