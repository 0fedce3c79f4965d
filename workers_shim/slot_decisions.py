"""What the pool of slots can decide: words between `slots`, which decides, and `intake`, which acts. Pure."""

from enum import IntEnum
from typing import Generic, TypeVar

from msgspec import Struct

D = TypeVar("D")


class Role(IntEnum):
    """What a queue is for; the order is the order of consuming. Streams that move never wait behind new ones."""

    RESUME = 0
    MODEL = 1
    OWN = 2
    PINNED = 3


class Source(Struct, frozen=True):
    """One queue. `model` is empty for the pinned queue, which is the worker's."""

    role: Role
    model: str = ""

    @property
    def shared(self) -> bool:
        """Whether other workers could start what is held from here."""
        return self.role is Role.RESUME or self.role is Role.MODEL


class Incarnation:
    """One life of a queue. Of a queue that was deleted, and is declared anew under its name, it is another one."""

    __slots__ = ("deleted",)

    def __init__(self) -> None:
        self.deleted = False


class Consumer:
    """What the broker knows by one consumer tag. Whoever consumes hands it back with each delivery, so that a
    cancelled one, whose last deliveries are still in transit, is forgotten by everybody together."""

    __slots__ = ("channel", "incarnation", "prefetch", "source", "unacked")

    def __init__(self, channel: int, source: Source, incarnation: Incarnation, prefetch: int) -> None:
        self.channel = channel
        """Which of the channels that were opened one after the other."""
        self.source = source
        self.incarnation = incarnation
        self.prefetch = prefetch
        self.unacked = 0

    @property
    def credit(self) -> int:
        """Deliveries that the broker may still send."""
        return self.prefetch - self.unacked


class Lease(Generic[D]):
    """A delivery that has, or had, a slot."""

    __slots__ = ("consumer", "delivery", "holds_slot", "incarnation", "source")

    def __init__(self, delivery: D, source: Source, incarnation: Incarnation, consumer: Consumer | None) -> None:
        self.delivery = delivery
        self.source = source
        self.incarnation = incarnation
        self.consumer = consumer
        """Whose credit the unacked delivery uses; None once it was acked, and for one that was asked for."""
        self.holds_slot = True

    @property
    def is_void(self) -> bool:
        """Its queue was deleted: the delivery must be neither acked nor given back.

        RabbitMQ settles by the queue's name and a number that each queue counts by itself. Seen with 3.10: an ack for
        a deleted queue removes what another worker holds from the new queue of that name.
        """
        return self.incarnation.deleted


class Start(Struct, Generic[D], frozen=True):
    """This delivery has a slot now."""

    lease: Lease[D]


class GiveBack(Struct, Generic[D], frozen=True):
    """No slot for it: requeue it, or dead-letter it where it came from the worker's own queue."""

    delivery: D
    source: Source


class Consume(Struct, frozen=True):
    """Consume `consumer.source` with `consumer.prefetch`."""

    consumer: Consumer


class Cancel(Struct, frozen=True):
    """Cancel this consumer. What it has delivered stays valid, and what is in transit still comes."""

    consumer: Consumer


class Get(Struct, frozen=True):
    """Ask this queue for one message; the answer is handed back with this."""

    channel: int
    source: Source


Action = Start[D] | GiveBack[D] | Consume | Cancel | Get
