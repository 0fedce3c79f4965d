"""What a worker says of itself on `fleet`: announce, heartbeat, goodbye.

`session` calls it when something has changed. It publishes nothing while the broker holds publishers back: one message
that says how things are follows when that is over, not a queue of old ones.
"""

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable
from importlib import metadata

from msgspec import Struct

from broker_wire import codec
from broker_wire.amqp import Channel, Outcome
from broker_wire.errors import BrokerError
from broker_wire.messages import Announce, FleetMessage, Goodbye, Heartbeat, Load, ModelCard, WorkerState
from broker_wire.topology import Topology
from workers_shim.config import SessionConfig
from workers_shim.slot_decisions import Role, Source

_log = logging.getLogger(__name__)

CHANGE_INTERVAL = 1.0
"""Seconds between two heartbeats at least."""
JITTER = 0.1
"""Of every interval, up and down, so that a fleet does not speak in chorus."""
GOODBYE_TIMEOUT = 2.0
"""Seconds that the broker has to confirm a goodbye."""


class Condition(Struct, frozen=True):
    """How a worker is just now. `reachable`: requests can come to it."""

    state: WorkerState
    load: Load
    requests_done: int
    tokens_done: int
    models: tuple[ModelCard, ...]
    reachable: bool


class Announcer:
    """One a worker. `condition` is asked whenever something is said."""

    def __init__(
        self,
        config: SessionConfig,
        instance: str,
        topology: Topology,
        condition: Callable[[], Condition],
        *,
        roll_call_jitter: float,
    ) -> None:
        self.first_sent_at: float | None = None
        """When the name was claimed, monotonic."""
        self._config = config
        self._instance = instance
        self._topology = topology
        self._condition = condition
        self._roll_call_jitter = roll_call_jitter
        self._started_at = time.time()
        self._channel: Channel | None = None
        self._blocked = False
        self._silent = False
        self._first = True
        self._made: set[Source] = set()
        self._requeues = self._requeues_told = 0
        self._announce_due = False
        self._answer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    # --- the way out

    def attach(self, channel: Channel) -> None:
        """Publish on this channel, which has confirms."""
        self._channel = channel
        self._blocked = False

    def detach(self) -> None:
        """The channel is gone."""
        self._channel = None

    def set_blocked(self, blocked: bool) -> None:
        """The broker holds publishers back, or no longer."""
        self._blocked = blocked
        if not blocked:
            self.changed()

    @property
    def attached(self) -> bool:
        """Whether there is a channel."""
        return self._channel is not None

    @property
    def heard(self) -> bool:
        """Whether anything that is said now would leave."""
        return self._channel is not None and not self._blocked and not self._silent

    # --- what to say

    def queue_made(self, source: Source) -> None:
        """This queue had to be created; the next announces say so, until one is confirmed."""
        self._made.add(source)

    def requests_requeued(self) -> None:
        """What this worker runs is in the queues, too; the next announces say so, until one is confirmed."""
        self._requeues += 1

    def announce(self) -> None:
        """Say who this is, now or as soon as it can be said."""
        self._announce_due = True
        self._say_what_is_due()

    def claim_again(self) -> None:
        """Say who this is as at first: an older instance of this name has to hear that it is taken."""
        self._first = True
        self.announce()

    def answer_roll_call(self) -> None:
        """Announce within a moment, each worker at another one; several calls have one answer."""
        if self._answer is None and not self._silent:
            delay = random.random() * self._roll_call_jitter
            self._answer = asyncio.get_running_loop().call_later(delay, self._answer_now)

    def changed(self) -> None:
        """The load or the state is another one: say so soon."""
        self._changed.set()

    async def run(self) -> None:
        """Heartbeats without end."""
        while True:
            interval = self._config.heartbeat_interval * _jitter()
            try:
                async with asyncio.timeout(interval):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if self._announce_due:
                self._say_what_is_due()
            else:
                self._heartbeat()
            await asyncio.sleep(min(CHANGE_INTERVAL, self._config.heartbeat_interval) * _jitter())

    async def leave(self, reason: str) -> None:
        """Say goodbye, and nothing more after it."""
        channel = self._channel
        heard, self._silent = self.heard, True
        if self._answer is not None:
            self._answer.cancel()
        if not heard or channel is None:
            return
        goodbye = Goodbye(self._config.name, self._instance, reason)
        try:
            await channel.publish_confirmed(
                self._topology.fleet,
                self._topology.fleet_key("goodbye", self._config.name),
                codec.encode(goodbye),
                type=codec.type_of(goodbye),
                timeout=GOODBYE_TIMEOUT,
            )
        except (BrokerError, TimeoutError) as error:
            _log.warning("goodbye not confirmed worker=%s reason=%s", self._config.name, error)

    # --- inside

    def _answer_now(self) -> None:
        self._answer = None
        self.announce()

    def _say_what_is_due(self) -> None:
        if not self._announce_due or not self.heard:
            return
        self._announce_due = False
        condition = self._condition()
        made, requeues = frozenset(self._made), self._requeues
        announce = Announce(
            worker=self._config.name,
            instance=self._instance,
            first=self._first,
            models=condition.models,
            slots=self._config.slots,
            speed=self._config.speed,
            state=condition.state,
            load=condition.load,
            shim=_version(),
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            bridged=self._config.bridged,
            made_queues=tuple(sorted(source.model for source in made if source.role is Role.MODEL)),
            made_pinned_queue=Source(Role.PINNED) in made,
            requeued=self._requeues > self._requeues_told,
        )
        if announce.first and self.first_sent_at is None:
            self.first_sent_at = time.monotonic()
        self._publish("first" if announce.first else "announce", announce, self._announced(announce, made, requeues))

    def _announced(self, announce: Announce, made: frozenset[Source], requeues: int) -> Callable[[Outcome], None]:
        def on_outcome(outcome: Outcome) -> None:
            if outcome is Outcome.CONFIRMED:
                # Nothing but a confirmed one counts as said: neither the claim to the name nor what became of queues.
                # (A claim that was made again meanwhile is not what was confirmed.)
                self._first = self._first and not announce.first
                self._made -= made
                self._requeues_told = max(self._requeues_told, requeues)
            else:
                self._announce_due = True
                self._changed.set()

        return on_outcome

    def _heartbeat(self) -> None:
        if not self.heard or self._first:
            return
        condition = self._condition()
        if not condition.reachable:
            # Its obituary is out already; a sign of life now would bring it back to where no request reaches it.
            return
        heartbeat = Heartbeat(
            worker=self._config.name,
            instance=self._instance,
            load=condition.load,
            state=condition.state,
            requests_done=condition.requests_done,
            tokens_done=condition.tokens_done,
        )
        self._publish("heartbeat", heartbeat, None)

    def _publish(self, kind: str, message: FleetMessage, on_outcome: Callable[[Outcome], None] | None) -> None:
        if self._channel is None:
            return
        try:
            self._channel.publish(
                self._topology.fleet,
                self._topology.fleet_key(kind, self._config.name),
                codec.encode(message),
                type=codec.type_of(message),
                on_outcome=on_outcome,
            )
        except BrokerError as error:
            _log.debug("not said kind=%s reason=%s", kind, error)
            self._announce_due = self._announce_due or isinstance(message, Announce)


def _jitter() -> float:
    return random.uniform(1.0 - JITTER, 1.0 + JITTER)


def _version() -> str:
    try:
        return metadata.version("broker-controller")
    except metadata.PackageNotFoundError:
        return ""
