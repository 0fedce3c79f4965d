"""One pool of slots over all queues of a worker: which delivery starts, which goes back, which queues to consume.

Pure: events in, actions out, no I/O and no clock. `intake` feeds it and carries the actions out, in order and on one
channel. It knows neither what a request is nor how long it runs.

Prefetch counts a consumer's unacked deliveries, so the prefetches of several consumers add up to more than the slots.
The scheme is lazy: every queue is consumed with prefetch = slots, and only a delivery that finds the pool full cancels
the shared consumers, before it is given back (a requeue under a live consumer would come straight back, thousands of
times a second). When a slot frees they are consumed anew with prefetch = free slots. So a worker of one model whose
other queues are idle never cancels and never consumes again.
"""

import itertools
from collections import deque
from collections.abc import Iterable
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

    __slots__ = ("consumer", "delivery", "holds_slot", "source")

    def __init__(self, delivery: D, source: Source, consumer: Consumer | None) -> None:
        self.delivery = delivery
        self.source = source
        self.consumer = consumer
        """Whose credit the unacked delivery uses; None once it was acked, or its tag is void."""
        self.holds_slot = True

    @property
    def is_void(self) -> bool:
        """Its queue was deleted: the delivery must be neither acked nor given back.

        RabbitMQ settles by the queue's name and a number that each queue counts by itself. Seen with 3.10: an ack for
        a deleted queue removes what another worker holds from the new queue of that name.
        """
        return self.consumer is not None and self.consumer.incarnation.deleted


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


Action = Start[D] | GiveBack[D] | Consume | Cancel


class SlotPool(Generic[D]):
    """`D` is whatever stands for a delivery; it is only handed through."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.running = 0
        self.draining = False
        self._open = False
        self._channel = 0
        self._sources: dict[Source, int] = {}
        """When each queue last had a delivery started, by a counter."""
        self._incarnations: dict[Source, Incarnation] = {}
        self._live: dict[Source, Consumer] = {}
        self._waiting: deque[Lease[D]] = deque()
        self._served = itertools.count(1)

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self.slots - self.running

    @property
    def waiting(self) -> int:
        """Pinned deliveries that wait here for a slot: no other worker may run them."""
        return len(self._waiting)

    # --- the queues and the channel

    def add(self, sources: Iterable[Source]) -> list[Action[D]]:
        """Serve these queues, too; they are declared."""
        for source in sources:
            self._sources.setdefault(source, 0)
            self._incarnations.setdefault(source, Incarnation())
        return self._balance()

    def remove(self, sources: Iterable[Source]) -> list[Action[D]]:
        """Serve these queues no longer. What is in transit from them will be given back."""
        actions: list[Action[D]] = []
        for source in sources:
            self._sources.pop(source, None)
            actions += self._cancel(source)
        return actions

    def opened(self) -> list[Action[D]]:
        """There is a new channel and every queue is declared. Originals that still run keep their slots."""
        self._open = True
        return self._balance()

    def closed(self) -> None:
        """The channel went: consumers are gone, tags are void, and the broker requeues what was unacked."""
        self._open = False
        self._channel += 1
        self._live.clear()
        self._waiting.clear()

    def consumer_lost(self, consumer: Consumer) -> bool:
        """The broker cancelled a consumer, since its queue was deleted. True: `add` it again once it is declared.

        What runs from there goes on, and nothing of it is settled any more.
        """
        consumer.incarnation.deleted = True
        if self._live.get(consumer.source) is not consumer:
            return False
        del self._incarnations[consumer.source]
        del self._live[consumer.source]
        del self._sources[consumer.source]
        return True

    def drain(self) -> list[Action[D]]:
        """Take nothing any more. What runs goes on."""
        self.draining = True
        actions: list[Action[D]] = []
        for source in list(self._live):
            actions += self._cancel(source)
        while self._waiting:
            lease = self._waiting.popleft()
            if not lease.is_void:
                actions.append(GiveBack(lease.delivery, lease.source))
        return actions

    # --- deliveries

    def delivered(self, consumer: Consumer, delivery: D) -> list[Action[D]]:
        """A delivery came from this consumer, live or just cancelled."""
        if consumer.channel != self._channel:
            # Its channel went, so its tag is void and the broker has requeued it.
            return []
        source = consumer.source
        if self.draining or source not in self._sources:
            return [GiveBack(delivery, source)]
        if self.running < self.slots:
            consumer.unacked += 1
            return [self._start(Lease(delivery, source, consumer))]
        if source.role is Role.PINNED:
            consumer.unacked += 1
            self._waiting.append(Lease(delivery, source, consumer))
            return []
        if source.role is Role.OWN:
            return [GiveBack(delivery, source)]
        actions: list[Action[D]] = []
        for other in [other for other in self._live if other.shared]:
            actions += self._cancel(other)
        actions.append(GiveBack(delivery, source))
        return actions

    def freed(self, lease: Lease[D]) -> list[Action[D]]:
        """The slot is free, although the delivery may stay unacked for some time yet."""
        if not lease.holds_slot:
            return []
        lease.holds_slot = False
        self.running -= 1
        return self._balance()

    def settled(self, lease: Lease[D]) -> None:
        """The delivery was acked or given back: its consumer has the credit again."""
        if lease.consumer is not None:
            lease.consumer.unacked -= 1
            lease.consumer = None

    # --- inside

    def _start(self, lease: Lease[D]) -> Start[D]:
        self.running += 1
        if lease.source in self._sources:
            self._sources[lease.source] = next(self._served)
        return Start(lease)

    def _balance(self) -> list[Action[D]]:
        """A free slot has a consumer with enough credit on every queue, or waits for a channel."""
        if not self._open or self.draining:
            return []
        actions: list[Action[D]] = []
        while self._waiting and self.running < self.slots:
            actions.append(self._start(self._waiting.popleft()))
        free = self.slots - self.running
        if free == 0:
            # AMQP takes a prefetch of 0 for "without bound".
            return actions
        short = [source for source in self._sources if self._credit(source) < free]
        if len(short) > 1:
            short.sort(key=lambda source: (source.role, self._sources[source]))
        for source in short:
            replaced = self._live.pop(source, None)
            self._live[source] = consumer = Consumer(self._channel, source, self._incarnations[source], free)
            actions.append(Consume(consumer))
            if replaced is not None:
                actions.append(Cancel(replaced))
        return actions

    def _credit(self, source: Source) -> int:
        consumer = self._live.get(source)
        return 0 if consumer is None else consumer.credit

    def _cancel(self, source: Source) -> list[Action[D]]:
        consumer = self._live.pop(source, None)
        return [] if consumer is None else [Cancel(consumer)]
