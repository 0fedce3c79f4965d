"""A worker's last will: the broker itself tells all controllers when this worker's connection closes.

The obituary lies in a queue of its own, delivered to this worker and never acked. When the consuming connection goes,
the broker requeues it, and the queue, whose messages live for 0 seconds, dead-letters it to `fleet`. It is *published*
on the publishing connection: a connection that publishes is stopped under an alarm, and then acks would not pass.
"""

import logging
from collections.abc import Callable

from broker_wire import codec
from broker_wire.amqp import Channel, Delivery, Outcome, Session, declare_queues
from broker_wire.errors import ChannelClosedError, NotConnectedError, QueueDownError
from broker_wire.garbage import GarbageBin
from broker_wire.messages import Obituary
from broker_wire.topology import Topology

_log = logging.getLogger(__name__)

RENEW_INTERVAL = 600.0
"""Seconds. Up to RabbitMQ 4.2 a delivery that is unacked for 30 minutes closes its channel."""


class LastWill:
    """One a worker. `on_closed` is called when its channel went; `start` it again."""

    def __init__(
        self, topology: Topology, worker: str, instance: str, garbage: GarbageBin, on_closed: Callable[[], None]
    ) -> None:
        self._topology = topology
        self._worker = worker
        self._instance = instance
        self._garbage = garbage
        self._number = 0
        self._queue = topology.will_queue(worker, instance)
        self._obituary = codec.encode(Obituary(worker, instance))
        self._on_closed = on_closed
        self._consuming: Channel | None = None
        self._publishing: Channel | None = None
        self._held: Delivery | None = None
        self._waiting = False
        self._under_way = False
        self._released = False

    @property
    def open(self) -> bool:
        """Whether an obituary that is published would come here."""
        return self._waiting

    @property
    def made(self) -> bool:
        """Whether the broker would tell of a death now."""
        return self._held is not None

    async def start(self, session: Session) -> None:
        """Wait for the obituary on a channel of its own. Raises: BrokerError."""
        try:
            await declare_queues(session, [self._queue])
        except QueueDownError as error:
            # Nobody else knows its name: another queue will do.
            self._number += 1
            self._queue = self._topology.will_queue(self._worker, self._instance, self._number)
            _log.info("last will goes to another queue queue=%s reason=%s", self._queue.name, error)
            await declare_queues(session, [self._queue])
        channel = self._consuming
        if channel is None or not channel.open:
            channel = self._consuming = await session.channel(on_closed=self._closed)
        await channel.consume(self._queue.name, self._on_delivery, on_cancelled=self._cancelled)
        self._waiting = True
        self.renew()

    def attach(self, channel: Channel) -> None:
        """Publish on this channel, which has confirms."""
        self._publishing = channel
        self._under_way = False
        if not self.made:
            self.renew()

    def detach(self) -> None:
        """The publishing channel is gone."""
        self._publishing = None

    def renew(self) -> None:
        """Publish it (again). The former one is acked when the new one has come: there is always one."""
        if self._publishing is None or not self.open or self._under_way or self._released:
            return
        try:
            self._publishing.publish(
                self._queue.exchange,
                self._queue.routing_key,
                self._obituary,
                type=codec.type_of(Obituary),
                mandatory=True,
                on_outcome=self._on_outcome,
            )
        except NotConnectedError:
            return
        self._under_way = True

    def release(self) -> None:
        """The worker leaves in order: nobody is to be told of a death. For good."""
        self._released = True
        if self._held is not None:
            self._held.channel.ack(self._held.tag)
            self._held = None

    def _on_delivery(self, delivery: Delivery) -> None:
        if delivery.body != self._obituary:
            # Held in its place, it would be what the broker sends on when this worker dies.
            delivery.channel.ack(delivery.tag)
            self._garbage.drop("will", "not this worker's obituary")
            return
        if self._released:
            # It was on its way when the worker said goodbye: it must not call a death what is none.
            delivery.channel.ack(delivery.tag)
            return
        former, self._held = self._held, delivery
        if former is not None:
            former.channel.ack(former.tag)

    def _on_outcome(self, outcome: Outcome) -> None:
        self._under_way = False
        if outcome is Outcome.RETURNED and self.open:
            self._cancelled("")

    def _cancelled(self, _tag: str) -> None:
        """Its queue was deleted by somebody, and the obituary with it: make both anew."""
        _log.warning("last will gone queue=%s", self._queue.name)
        self._waiting, self._held = False, None
        self._on_closed()

    def _closed(self, reason: ChannelClosedError) -> None:
        self._consuming = self._held = None
        self._waiting = False
        if reason.code:
            _log.warning("channel closed by the broker channel=will reason=%s", reason)
        self._on_closed()
