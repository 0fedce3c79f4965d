"""One pool of slots over all queues of a worker: which delivery starts, which goes back, which queues to consume.

Pure: events in, actions out, no I/O and no clock. `intake` feeds it and carries the actions out, in order and on one
channel. It knows neither what a request is nor how long it runs.

Prefetch counts a consumer's unacked deliveries, so the prefetches of several consumers add up to more than the slots.
The scheme is lazy: every queue is consumed with prefetch = slots, and only a delivery that finds the pool full cancels
the shared consumers, before it is given back (a requeue under a live consumer would come straight back, thousands of
times a second). From then on each free slot asks for one message of one of these queues, in turns; a queue that says
that it is empty is consumed again. So a worker of one model whose other queues are idle never cancels and never
consumes again, and one whose models compete for its slots pays one question a request and gives nothing back.
"""

import itertools
from collections import Counter, deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from workers_shim.slot_decisions import (
    Action,
    Cancel,
    Consume,
    Consumer,
    Get,
    GiveBack,
    Incarnation,
    Lease,
    Role,
    Source,
    Start,
)

D = TypeVar("D")


class SlotPool(Generic[D]):
    """`D` is whatever stands for a delivery; it is only handed through."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.running = 0
        self.draining = False
        self._open = False
        self._channel = 0
        self._sources: dict[Source, int] = {}
        """When each queue was last asked, or had a delivery started, by a counter."""
        self._incarnations: dict[Source, Incarnation] = {}
        self._live: dict[Source, Consumer] = {}
        self._paused: set[Source] = set()
        """Shared queues without a consumer, that each free slot asks."""
        self._asked: Counter[Source] = Counter()
        """Questions without an answer; each has a claim on a free slot."""
        self._waiting: deque[Lease[D]] = deque()
        self._turns = itertools.count(1)

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
            self._paused.discard(source)
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
        self._paused.clear()
        self._asked.clear()
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

    def keep(self) -> list[Action[D]]:
        """A queue lives for some time after its last consumer: let each have one for a moment that has none here.

        It may bring one delivery, which is treated as any other of a consumer that was just cancelled.
        """
        actions: list[Action[D]] = []
        for source in self._paused:
            moment = Consumer(self._channel, source, self._incarnations[source], 1)
            actions += [Consume(moment), Cancel(moment)]
        return actions

    def drain(self) -> list[Action[D]]:
        """Take nothing any more. What runs goes on."""
        self.draining = True
        self._paused.clear()
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
            return [self._start(Lease(delivery, source, consumer.incarnation, consumer))]
        if source.role is Role.PINNED:
            consumer.unacked += 1
            self._waiting.append(Lease(delivery, source, consumer.incarnation, consumer))
            return []
        if source.role is Role.OWN:
            return [GiveBack(delivery, source)]
        return [*self._pause(source), GiveBack(delivery, source)]

    def got(self, get: Get, delivery: D | None) -> list[Action[D]]:
        """The answer to a question; None says that the queue is empty."""
        if get.channel != self._channel:
            return []
        source = get.source
        self._asked[source] -= 1
        if not self._asked[source]:
            del self._asked[source]
        if delivery is None:
            actions = []
            if source in self._paused and self.running < self.slots:
                self._paused.discard(source)
                actions.append(self._consume(source, self.slots))
            return [*actions, *self._balance()]
        if self.draining or source not in self._sources:
            return [GiveBack(delivery, source), *self._balance()]
        if self.running < self.slots:
            return [self._start(Lease(delivery, source, self._incarnations[source], None))]
        # A consumer was faster.
        return [*self._pause(source), GiveBack(delivery, source)]

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
        self._has_turn(lease.source)
        return Start(lease)

    def _has_turn(self, source: Source) -> None:
        if source in self._sources:
            self._sources[source] = next(self._turns)

    def _balance(self) -> list[Action[D]]:
        """A free slot has a consumer with enough credit on every queue, or asks one; or waits for a channel."""
        if not self._open or self.draining:
            return []
        actions: list[Action[D]] = []
        while self._waiting and self.running < self.slots:
            actions.append(self._start(self._waiting.popleft()))
        unclaimed = self.slots - self.running - self._asked.total()
        if unclaimed <= 0:
            return actions
        short = [source for source in self._sources if self._credit(source) < unclaimed]
        if len(short) > 1:
            short.sort(key=self._order)
        for source in short:
            replaced = self._live.get(source)
            if source.shared and (replaced is not None or source in self._paused):
                # Perhaps all that it gave has come from here: whether there is more is asked, not guessed.
                actions += self._cancel(source)
                self._paused.add(source)
                continue
            actions.append(self._consume(source, unclaimed))
            if replaced is not None:
                actions.append(Cancel(replaced))
        return actions + self._ask(unclaimed)

    def _ask(self, slots: int) -> list[Action[D]]:
        """One question for each of so many free slots: every queue once, then every queue a second time."""
        actions: list[Action[D]] = []
        while self._paused and len(actions) < slots:
            source = min(self._paused, key=lambda source: (self._asked[source], *self._order(source)))
            self._asked[source] += 1
            self._has_turn(source)
            actions.append(Get(self._channel, source))
        return actions

    def _order(self, source: Source) -> tuple[Role, int]:
        return source.role, self._sources[source]

    def _pause(self, source: Source) -> list[Action[D]]:
        """The pool is full: nothing more is to come from here, nor from any model's queue."""
        actions: list[Action[D]] = []
        for other in list(self._live):
            if other == source or other.role is Role.MODEL:
                actions += self._cancel(other)
                self._paused.add(other)
        return actions

    def _consume(self, source: Source, prefetch: int) -> Consume:
        self._live[source] = consumer = Consumer(self._channel, source, self._incarnations[source], prefetch)
        return Consume(consumer)

    def _credit(self, source: Source) -> int:
        consumer = self._live.get(source)
        return 0 if consumer is None else consumer.credit

    def _cancel(self, source: Source) -> list[Action[D]]:
        consumer = self._live.pop(source, None)
        return [] if consumer is None else [Cancel(consumer)]
