"""Puts the controller's parts together and runs them: links, registry, requests, fleet. Knows no HTTP.

Whoever serves (the CLI, a test) makes one and runs it as a task; cancelled, it ends every part in order.
"""

import asyncio
import secrets

from msgspec import Struct

from broker_controller.address_guard import LOOPBACK, AddressGuard, Network
from broker_controller.bridge import Bridges
from broker_controller.bridged_worker import BridgeConfig
from broker_controller.controller import Controller
from broker_controller.decisions import Limits
from broker_controller.dispatch import DispatchMethod
from broker_controller.fleet import Fleet
from broker_controller.fleet_status import fleet_status
from broker_controller.gateway import Gateway
from broker_controller.links import Links
from broker_controller.nesting import LoopGuard
from broker_controller.parents import Parents
from broker_controller.questions import Questions
from broker_controller.queue_watch import QueueWatch
from broker_controller.reply_reader import ReplyReader
from broker_controller.responses.config import KeepConfig
from broker_controller.responses.keeper import Keeper
from broker_controller.tally import Tally
from broker_controller.watched_clock import WatchedClock
from broker_wire.amqp.addresses import TLSFiles, parse_broker_url
from broker_wire.garbage import GarbageBin
from broker_wire.topology import QueueBounds, Topology


class ServiceConfig(Struct, frozen=True):
    """What the broker side needs to know. Seconds and bytes.

    Attributes:
        expiration, check_interval: a worker without a heartbeat for so long is dropped; looked at so often.
            LLaVA's: 90 and 30.
        bounds: of the model queues that this process declares, those of HTTP workers.
        http_workers: networks that workers of the old kind may register from.
        http_worker_slots: requests that each of them is given at once.
        public_url: where clients reach this controller, and its name at its parents.
        parents: controllers that this one is a worker of.
        keep: what is kept of responses.
    """

    broker_url: str
    tls: TLSFiles | None = None
    prefix: str = "bc"
    bounds: QueueBounds = QueueBounds()
    dispatch_method: DispatchMethod = DispatchMethod.QUEUE
    expiration: float = 90.0
    check_interval: float = 30.0
    max_inflight_bytes: int = 1024 * 1024 * 1024
    limits: Limits = Limits()
    http_workers: tuple[Network, ...] = LOOPBACK
    http_worker_slots: int = 5
    public_url: str | None = None
    parents: tuple[str, ...] = ()
    keep: KeepConfig = KeepConfig()


class ControllerService:
    """One controller process, less its HTTP side."""

    def __init__(self, config: ServiceConfig) -> None:
        """Raises: ValueError for a broker URL or prefix that cannot be used."""
        self.controller_id = secrets.token_hex(8)
        self.garbage = GarbageBin()
        watched = WatchedClock()
        topology = Topology(config.prefix, config.bounds)
        addresses = parse_broker_url(config.broker_url, config.tls)
        self.controller = Controller(config.dispatch_method, expiration=config.expiration, clock=watched)
        self.links = Links(addresses, topology, name=f"controller {self.controller_id}")
        watched.follow(self.links)  # before whoever else is told: they ask what time it is
        self.queues = QueueWatch(self.links, self.controller.registry.models)
        self.gateway = Gateway(
            self.controller_id,
            self.links,
            self.controller.registry,
            choose_worker=self.controller.choose,
            note_served=self.controller.note_served,
            limits=config.limits,
            max_inflight_bytes=config.max_inflight_bytes,
            watched=watched,
            queue_lengths=lambda: self.queues.lengths,
            empty_queues=lambda: self.queues.empty,
            tally=Tally(self.controller.registry.models),
        )
        self.questions = Questions(
            self.controller_id,
            self.links,
            self.controller.registry,
            door=self.gateway.door,
            inflight=self.gateway.inflight,
            watched=watched,
            next_number=self.gateway.next_number,
        )
        self.reply_reader = ReplyReader(
            self.gateway,
            self.links,
            self.controller.registry,
            self.garbage,
            on_answer=self.questions.on_answer,
        )
        self.bridges = Bridges(
            self.controller,
            self.links,
            watched,
            AddressGuard(config.http_workers),
            LoopGuard(self.controller_id, config.public_url, config.parents),
            BridgeConfig(
                broker_url=config.broker_url,
                tls=config.tls,
                prefix=config.prefix,
                bounds=config.bounds,
                slots=config.http_worker_slots,
            ),
        )
        self.fleet = Fleet(
            self.controller,
            self.gateway,
            self.links,
            self.garbage,
            bridges=self.bridges,
            check_interval=config.check_interval,
        )
        self.keeper = Keeper(
            self.gateway,
            self.links,
            self.controller.registry,
            self.garbage,
            config.keep,
            reads_sessions=config.dispatch_method is DispatchMethod.AFFINITY,
        )
        self.fleet.on_keeps_responses = self.keeper.join

        self.parents = Parents(
            config.parents,
            config.public_url or "",
            status=lambda: fleet_status(self.controller, self.queues, self.controller_id),
            takes_images=lambda: bool(self.controller.registry.multimodal_models()),
            is_leaving=lambda: self.gateway.door.leaving,
        )

    async def run(self) -> None:
        """Serve until cancelled. The broker may come later: the connections are tried without end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.links.run(), name="links")
            tasks.create_task(self.gateway.run(), name="gateway")
            tasks.create_task(self.fleet.run(), name="fleet")
            tasks.create_task(self.bridges.run(), name="bridges")
            tasks.create_task(self.queues.run(), name="queue lengths")
            tasks.create_task(self.parents.run(), name="parents")
            tasks.create_task(self.keeper.run(), name="kept responses")
