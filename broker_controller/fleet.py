"""What workers say of themselves, to the registry and to the requests that run on them; roll-calls; expiry.

Any number of controllers listen to the same exchange, so each has the whole fleet within a heartbeat, from messages
alone. A controller that starts asks everybody at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from broker_controller.bridge import Bridges
from broker_controller.controller import Controller
from broker_controller.gateway import Gateway
from broker_controller.links import Links
from broker_controller.registry import Change
from broker_wire import codec
from broker_wire.amqp.channel import Delivery
from broker_wire.amqp.connection import Session
from broker_wire.errors import GarbageError, IncompatibleError, NameRefusedError
from broker_wire.garbage import GarbageBin
from broker_wire.messages import (
    PROTOCOL_VERSION,
    Announce,
    FleetMessage,
    Goodbye,
    Heartbeat,
    Introduce,
    KeepsResponses,
    Obituary,
    Refuse,
    RollCall,
    UpstreamHeartbeat,
    UpstreamRegistration,
)
from broker_wire.topology import check_model_name, check_worker_name

_log = logging.getLogger(__name__)

ROLL_CALL_TIME = 1.0
"""Seconds in which all workers have answered a roll-call; they spread their answers over 0.3."""
INTRODUCE_INTERVAL = 2.0
"""Seconds before an unknown worker is asked again who it is."""
SILENCE = 20.0
"""Seconds after our reconnect in which every worker has come back, too: they try at least every 15."""
MAX_UNKNOWN = 10_000
"""Unknown instances remembered at most."""


class Fleet:
    """Listens to the fleet. `controller` holds the registry that it feeds."""

    def __init__(
        self,
        controller: Controller,
        gateway: Gateway,
        links: Links,
        garbage: GarbageBin,
        *,
        bridges: Bridges,
        check_interval: float,
    ) -> None:
        self.controller = controller
        self._registry = controller.registry
        self._gateway = gateway
        self._links = links
        self._garbage = garbage
        self.on_keeps_responses: Callable[[], None] = lambda: None
        """Another controller, or this one, has made the log of responses."""
        self._bridges = bridges
        self._check_interval = check_interval
        self._asked: dict[str, float] = {}
        self._listening_since: float | None = None
        self._awaited: set[str] = set()
        self._all_announced = asyncio.Event()
        self._unheard: set[str] = set()
        """Workers, by instance, that nothing was heard of since our last reconnect."""
        self._unheard_since = 0.0
        links.on_consumer_up.append(self._attach)
        links.on_both_up.append(self._call_the_roll)

    @property
    def ready(self) -> bool:
        """A roll-call was answered, or its time has passed."""
        since = self._listening_since
        return since is not None and time.monotonic() - since >= ROLL_CALL_TIME

    async def run(self) -> None:
        """Drop workers that were not heard of for too long, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._expire(), name="expiry")
            tasks.create_task(self._lose_unheard(), name="unheard workers")

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(self._check_interval)
            for record in self._registry.expire(self._gateway.watched()):
                _log.warning("worker expired worker=%s instance=%s", record.name, record.instance)
                if record.instance:
                    self._gateway.on_worker_gone(record.instance, in_order=False)

    async def _lose_unheard(self) -> None:
        """A worker may die while the broker is away, which then has no last will of it to tell."""
        while True:
            await asyncio.sleep(1.0)
            if self._unheard and self._gateway.watched() - self._unheard_since >= SILENCE:
                for record in self._registry.workers():
                    if record.instance in self._unheard:
                        self._lose(Obituary(record.name, record.instance))
                self._unheard.clear()

    async def roll_call(self, timeout: float = ROLL_CALL_TIME) -> None:
        """Ask every worker, and wait until all that are known have answered, or `timeout` seconds."""
        self._awaited = self._live_instances()
        self._all_announced.clear()
        self._send_roll_call()
        if not self._awaited:
            return
        try:
            await asyncio.wait_for(self._all_announced.wait(), timeout)
        except TimeoutError:
            _log.info("roll-call ended without answers missing=%d", len(self._awaited))

    def _call_the_roll(self) -> None:
        if self._listening_since is None:
            self._listening_since = time.monotonic()
        self._unheard = self._live_instances()
        self._unheard_since = self._gateway.watched()
        self._send_roll_call()

    def _live_instances(self) -> set[str]:
        return {record.instance for record in self._registry.workers() if record.instance and record.state.live}

    def _send_roll_call(self) -> None:
        self._links.send_control(self._links.topology.all_workers_key, RollCall(self._gateway.controller_id))

    async def _attach(self, session: Session) -> None:
        queue = self._links.topology.controller_fleet_queue()
        await self._links.listen(session, queue, self._on_delivery)

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            self._apply(codec.decode_fleet(delivery.body, delivery.content_type))
        except IncompatibleError as error:
            self._on_stranger(delivery, error)
        except (GarbageError, NameRefusedError) as error:
            self._garbage.drop("fleet", error)

    def _apply(self, message: FleetMessage) -> None:
        now = self._gateway.watched()
        match message:
            case Heartbeat():
                self._unheard.discard(message.instance)
                if not self._registry.apply_heartbeat(message, now):
                    self._introduce(message.instance, message.worker)
            case Announce():
                self._on_announce(message, now)
            case Goodbye():
                self._registry.apply_goodbye(message)
                self._gateway.on_worker_gone(message.instance, in_order=True)
                self._bridges.on_worker_gone(message.worker)
                _log.info("worker left worker=%s reason=%s", message.worker, message.reason)
            case Obituary():
                self._lose(message)
            case UpstreamRegistration():
                check_worker_name(message.worker)
                self._bridges.on_upstream_registration(message)
            case UpstreamHeartbeat():
                self._bridges.on_upstream_heartbeat(message)
            case KeepsResponses():
                self.on_keeps_responses()

    def _lose(self, obituary: Obituary) -> None:
        is_known = self._registry.apply_obituary(obituary, self._gateway.watched())
        # An instance that has lost its name to another may still run requests.
        self._gateway.on_worker_gone(obituary.instance, in_order=False)
        self._bridges.on_worker_gone(obituary.worker)
        if is_known:
            _log.warning("worker lost worker=%s instance=%s", obituary.worker, obituary.instance)
            # It may live, if that was an old connection of it which only now was found to be dead: then it answers.
            self._ask_who_it_is(obituary.instance)

    def _on_announce(self, message: Announce, now: float) -> None:
        check_worker_name(message.worker)
        for card in message.models:
            check_model_name(card.name)
        if self._registry.apply_announce(message, now) in (Change.NEW, Change.REPLACED):
            models = ",".join(card.name for card in message.models)
            _log.info("worker joined worker=%s instance=%s models=%s", message.worker, message.instance, models)
        self._asked.pop(message.instance, None)
        self._unheard.discard(message.instance)
        self._gateway.on_announce(message)
        if message.bridged:
            self._bridges.on_announce(message.worker)
        self._awaited.discard(message.instance)
        if not self._awaited:
            self._all_announced.set()

    def _introduce(self, instance: str, worker: str) -> None:
        now = time.monotonic()
        if now - self._asked.get(instance, -INTRODUCE_INTERVAL) < INTRODUCE_INTERVAL:
            return
        if len(self._asked) >= MAX_UNKNOWN:
            self._asked.clear()
        self._asked[instance] = now
        _log.info("heartbeat of an unknown worker, asked who it is worker=%s instance=%s", worker, instance)
        self._ask_who_it_is(instance)

    def _ask_who_it_is(self, instance: str) -> None:
        self._links.send_control(self._links.topology.instance_key(instance), Introduce(self._gateway.controller_id))

    def _on_stranger(self, delivery: Delivery, error: IncompatibleError) -> None:
        stranger = codec.recognise_stranger(delivery.body, delivery.type)
        if stranger is None:
            self._garbage.drop("fleet", error)
            return
        self._registry.apply_stranger(stranger, self._gateway.watched())
        reason = (
            f"worker {stranger.worker!r} speaks protocol {stranger.protocol} and this controller {PROTOCOL_VERSION}: "
            "install the same major version on both sides"
        )
        _log.error("worker refused worker=%s reason=%s", stranger.worker, reason)
        self._links.send_control(
            self._links.topology.instance_key(stranger.instance), Refuse(self._gateway.controller_id, reason)
        )
