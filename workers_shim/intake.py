"""Takes requests from the broker while slots are free, and settles them: the I/O for the decisions of `slots`.

One channel for all request queues, because a cancel has to reach the broker before the requeue that follows it. What a
delivery means is for `custody`; this module knows only consumers, tags and queues.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from broker_wire.amqp import Channel, Delivery, Session, declare_queues
from broker_wire.errors import ChannelClosedError, NotConnectedError, QueueDownError
from broker_wire.topology import Queue, Topology
from workers_shim.slot_decisions import Action, Cancel, Consume, Consumer, Get, GiveBack, Lease, Role, Source, Start
from workers_shim.slots import SlotPool

_log = logging.getLogger(__name__)


class Intake:
    """One a worker.

    Args:
        take: called with each delivery that has a slot.
        on_closed: called when the channel went; every delivery's tag is void.
        on_queue_lost: called when the broker ended a consumer; `restore` it.
        on_made: called with a model's queue, or that of pinned requests, which had to be created: whatever waited in
            an earlier one is gone.
    """

    def __init__(
        self,
        topology: Topology,
        worker: str,
        slots: int,
        models: Iterable[str],
        *,
        take: Callable[[Lease[Delivery]], None],
        on_closed: Callable[[], None],
        on_queue_lost: Callable[[], None],
        on_made: Callable[[Source], None],
    ) -> None:
        self.pool: SlotPool[Delivery] = SlotPool(slots)
        self._topology = topology
        self._worker = worker
        self._take = take
        self._on_closed = on_closed
        self._on_queue_lost = on_queue_lost
        self._on_made = on_made
        self._channel: Channel | None = None
        self._tags: dict[Consumer, str] = {}
        self._models = list(models)
        self.pool.add(self._sources(self._models))

    @property
    def open(self) -> bool:
        """Whether there is a channel."""
        return self._channel is not None and self._channel.open

    # --- channel and queues

    async def start(self, session: Session) -> None:
        """Declare every queue and consume; one whose node is down is lost until it is back. Raises: BrokerError."""
        down = await self._declare(session, self._models)
        sources = self._sources(self._models)
        self._perform(self.pool.add([source for source in sources if source not in down]))
        self._perform(self.pool.remove(down))
        self._channel = await session.channel(on_closed=self._closed)
        self._perform(self.pool.opened())
        for source, error in down.items():
            _log.warning("queue not consumed queue=%s reason=%s", self._queue(source).name, error)
            self._on_queue_lost()

    async def restore(self, session: Session) -> None:
        """Declare the queues anew whose consumers the broker ended, and consume them.

        Raises: BrokerError; QueueDownError when all are consumed but those whose node is down.
        """
        down = await self._declare(session, self._models)
        if self.open:
            self._perform(self.pool.add([each for each in self._sources(self._models) if each not in down]))
        for error in down.values():
            raise error

    async def add_model(self, model: str, session: Session | None) -> None:
        """Take requests for a model, too; without a session, from the next connection on. Raises: BrokerError."""
        if model not in self._models:
            self._models.append(model)
        down = {} if session is None else await self._declare(session, [model])
        self._perform(self.pool.add([source for source in self._sources([model]) if source not in down]))
        for error in down.values():
            raise error

    def remove_model(self, model: str) -> None:
        """Take no more requests for a model."""
        if model in self._models:
            self._models.remove(model)
            sources = [source for source in self._sources([model]) if source.role is not Role.PINNED]
            self._perform(self.pool.remove(sources))

    def keep_queues(self) -> None:
        """Those that are not consumed now are not to expire meanwhile."""
        if self.open:
            self._perform(self.pool.keep())

    def drain(self) -> None:
        """Take nothing any more."""
        self._perform(self.pool.drain())

    # --- deliveries

    def ack(self, lease: Lease[Delivery]) -> None:
        """Settle the delivery. Without effect when its channel or queue has gone."""
        if not lease.is_void:
            lease.delivery.channel.ack(lease.delivery.tag)
        self.pool.settled(lease)

    def give_back(self, lease: Lease[Delivery]) -> None:
        """Let another worker have the delivery; its slot is free."""
        if not lease.is_void:
            self._return(lease.delivery, lease.source)
        self.pool.settled(lease)
        self.free(lease)

    def free(self, lease: Lease[Delivery]) -> None:
        """The slot is free. Idempotent."""
        self._perform(self.pool.freed(lease))

    # --- inside

    def _perform(self, actions: list[Action[Delivery]]) -> None:
        for action in actions:
            match action:
                case Start():
                    self._take(action.lease)
                case GiveBack():
                    self._return(action.delivery, action.source)
                case Consume():
                    self._consume(action.consumer)
                case Get():
                    self._ask(action)
                case Cancel():
                    tag = self._tags.pop(action.consumer, None)
                    if tag is not None and self._channel is not None:
                        self._channel.cancel(tag)

    def _on_delivery(self, consumer: Consumer, delivery: Delivery) -> None:
        self._perform(self.pool.delivered(consumer, delivery))

    def _consume(self, consumer: Consumer) -> None:
        if self._channel is None:
            return
        try:
            self._tags[consumer] = self._channel.consume_soon(
                self._queue(consumer.source).name,
                partial(self._on_delivery, consumer),
                prefetch=consumer.prefetch,
                on_cancelled=partial(self._lost, consumer),
            )
        except NotConnectedError:
            # The channel is going this moment; it is opened anew, and then everything is consumed.
            _log.debug("consume skipped queue=%s reason=the channel is closing", self._queue(consumer.source).name)

    def _ask(self, get: Get) -> None:
        # Seen with 3.10: when the node of a quorum queue's leader has just died, the answer is 541, and the connection
        # is closed. It comes back as after any loss, and what runs goes on.
        if self._channel is None:
            return
        name = self._queue(get.source).name
        try:
            self._channel.get_soon(name, partial(self._on_got, get), partial(self._on_got, get, None))
        except NotConnectedError:
            _log.debug("question skipped queue=%s reason=the channel is closing", name)

    def _on_got(self, get: Get, delivery: Delivery | None) -> None:
        self._perform(self.pool.got(get, delivery))

    def _return(self, delivery: Delivery, source: Source) -> None:
        if source.role is Role.OWN:
            # Its queue hands it on to the model's queue.
            delivery.channel.reject(delivery.tag, requeue=False)
        else:
            delivery.channel.nack(delivery.tag, requeue=True)

    def _closed(self, reason: ChannelClosedError) -> None:
        self._channel = None
        self._tags.clear()
        self.pool.closed()
        if reason.code:
            _log.warning("channel closed by the broker worker=%s channel=requests reason=%s", self._worker, reason)
        self._on_closed()

    def _lost(self, consumer: Consumer, _tag: str) -> None:
        self._tags.pop(consumer, None)
        if self.pool.consumer_lost(consumer):
            _log.warning("consumer ended by the broker queue=%s", self._queue(consumer.source).name)
            self._on_queue_lost()

    async def _declare(self, session: Session, models: Sequence[str]) -> dict[Source, QueueDownError]:
        """Returns: those whose node of the cluster is down."""
        down: dict[Source, QueueDownError] = {}
        told: list[Source] = []
        others: list[Source] = []
        for source in self._sources(models):
            (told if source.role in (Role.MODEL, Role.PINNED) else others).append(source)
        for source in told:
            try:
                # Each told by itself: if one of the next fails, it must be known all the same that this one is new.
                if await declare_queues(session, [self._queue(source)]):
                    self._on_made(source)
            except QueueDownError as error:
                down[source] = error
        try:
            await declare_queues(session, [self._queue(source) for source in others])
        except QueueDownError:
            for source in others:
                try:
                    await declare_queues(session, [self._queue(source)])
                except QueueDownError as error:
                    down[source] = error
        return down

    def _sources(self, models: Iterable[str]) -> list[Source]:
        roles = (Role.RESUME, Role.MODEL, Role.OWN)
        return [Source(Role.PINNED), *(Source(role, model) for model in models for role in roles)]

    def _queue(self, source: Source) -> Queue:
        match source.role:
            case Role.RESUME:
                return self._topology.resume_queue(source.model)
            case Role.MODEL:
                return self._topology.model_queue(source.model)
            case Role.OWN:
                return self._topology.own_queue(self._worker, source.model)
            case Role.PINNED:
                return self._topology.pinned_queue(self._worker)
