"""A fleet of real processes under a load whose requests are brought into a known state before a fault is injected.

queued      in the model's queue, for every slot is taken
starting    at a worker that has not given the first token
mid-stream  the client has some of the answer
arriving    sent while it happens and afterwards, by clients that keep coming
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from broker_controller.private_node import PrivateNode
from broker_wire.topology import Topology
from tests.acceptance.fleet import Fleet, RunningController
from tests.faults import leftovers
from tests.faults.client import Client
from tests.faults.engine import starts_of
from tests.faults.history import Exchange
from tests.faults.load import Load
from tests.faults.settings import settings_of_environment
from tests.processes import Process, Processes
from tests.waiting import eventually_sync

QUEUED, STARTING, MID_STREAM = "queued", "starting", "mid-stream"
PACE = 20.0
"""Tokens a second of each stream."""
TOKENS = 120
AN_HOUR_OF_TOKENS = int(3600 * PACE)
"""For what has to be stopped, since no test waits for its end."""
ARRIVAL_INTERVAL = 0.5
"""Seconds between two clients of those that keep coming; each wants half a second of a slot."""
START_SECONDS = 4.0
"""How long an engine takes for the first token of those that are to be starting."""


class Scene:
    """One fleet and its clients."""

    def __init__(
        self, processes: Processes, fleet: Fleet, node: PrivateNode, prefix: str, *others: PrivateNode, journal: Path
    ) -> None:
        """`others` are the nodes that make a cluster with `node`."""
        self.fleet = fleet
        self.node = node
        self.nodes = [node, *others]
        self.settings = settings_of_environment()
        self.workers: dict[str, Process] = {}
        self.environments: dict[str, dict[str, str]] = {}
        """Of "controller" or a worker's name: what is added to its environment when it starts."""
        self.ready_at = self.fault_at = 0.0
        self._processes = processes
        self._prefix = prefix
        self._journal = journal
        self._before: leftovers.Leftovers | None = None
        self.controller: RunningController
        self.load = Load()

    def start(
        self,
        *names: str,
        slots: int = 4,
        controller: tuple[str, ...] = (),
        worker: tuple[str, ...] = (),
        broker_urls: Sequence[str] = (),
    ) -> None:
        """One controller and these workers; returns when all are ready. `broker_urls`: of the workers, in order."""
        self.start_controller(*controller)
        for name, broker_url in itertools.zip_longest(names, broker_urls, fillvalue=""):
            self.start_worker(name, slots, *worker, broker_url=broker_url)
            self.controller.wait_for_workers(*self.workers)
        self.ready_at = time.monotonic()
        eventually_sync(self._is_idle)

    def start_controller(self, *options: str) -> None:
        """One that the next requests are for; returns when it is ready."""
        environment = self.environments.get("controller")
        self.controller = self.fleet.controller(*self.settings.controller_options(), *options, env=environment)

    def kill_controller(self) -> None:
        """Its clients can be told nothing any more."""
        for client in self.load.clients:
            client.exchange.left |= client.url == self.controller.url
        self.controller.process.kill()

    def start_worker(self, name: str, slots: int = 4, *options: str, broker_url: str = "") -> Process:
        """Start one that may take the place of an earlier one of its name."""
        self.workers[name] = self._processes.start(
            "python",
            "-m",
            "tests.faults.engine",
            *("--name", name, "--slots", str(slots), "--tokens-per-second", str(PACE)),
            *("--broker-url", broker_url or self.node.url, "--prefix", self._prefix),
            *("--journal", str(self._journal)),
            *self.settings.worker_options(),
            *options,
            env=self.environments.get(name),
        )
        return self.workers[name]

    # --- the load

    def send(self, group: str, steps: str = "", tokens: int = TOKENS) -> Client:
        """One client asks; `steps` steer the engine."""
        return self.load.send(self.controller.url, group, steps=steps, tokens=tokens)

    async def bring(self, *, mid_stream: int = 0, starting: int = 0, queued: int = 0, tokens: int = TOKENS) -> None:
        """Send so many requests of each kind, and wait until each is in its state; those in the queue in order."""
        running = (await self.status())["streams"]["running"]
        for _ in range(mid_stream):
            self.send(MID_STREAM, tokens=tokens)
        await self.load.until_each(MID_STREAM, lambda exchange: len(exchange.chunks) > 2)
        for _ in range(starting):
            self.send(STARTING, f"pause:{START_SECONDS:g}", tokens // 2)
        await self.until(lambda status: status["streams"]["running"] == running + mid_stream + starting)
        for place in range(1, queued + 1):
            # One by one: what is sent at once may come to the queue in any order.
            self.send(QUEUED, tokens=tokens // 2)
            await self.until(lambda status, place=place: status["streams"]["waiting"] == place)  # type: ignore[misc]

    async def one_works_and_another_is_free(self, *options: str) -> list[Exchange]:
        """All that runs is at w1: two mid-stream, two starting. `options` are both workers'."""
        await asyncio.to_thread(self.start, "w1", worker=options)
        await self.bring(mid_stream=2, starting=2)
        await self.start_a_free_one("w2", *options)
        running = self.running_at("w1")
        assert len(running) == 4
        return running

    async def start_a_free_one(self, name: str, *options: str, slots: int = 4) -> None:
        """One more worker; returns when all are ready."""
        self.start_worker(name, slots, *options)
        await self.until_ready(*self.workers)

    async def until_ready(self, *names: str) -> None:
        """Until these workers are, and there are no others."""
        wanted = dict.fromkeys(names, "ready")
        await self.until(lambda status: {each["name"]: each["state"] for each in status["workers"]} == wanted)

    def let_clients_arrive(self, controller: RunningController | None = None) -> None:
        """They keep coming until all others have what they wanted."""
        self.load.begin_arrivals((controller or self.controller).url, ARRIVAL_INTERVAL, int(PACE * ARRIVAL_INTERVAL))

    async def until(self, condition: Callable[[Any], bool], within: float = 30.0) -> None:
        """Until `/status` says so. The clients go on reading meanwhile."""

        await asyncio.to_thread(eventually_sync, lambda: condition(self.controller.get("/status")), within)

    async def status(self) -> Any:
        return await asyncio.to_thread(self.controller.get, "/status")

    def fault(self) -> None:
        """It is now."""
        self.fault_at = time.monotonic()

    async def finish(self) -> list[Exchange]:
        """All answers, when nothing of them is left anywhere."""
        exchanges = await self.load.until_all_ended()
        for exchange in exchanges:
            exchange.starts = starts_of(self._journal, exchange.prompt)
        await asyncio.to_thread(eventually_sync, self.nothing_is_left, 60.0)
        return [exchange for exchange in exchanges if not exchange.left]

    def running_at(self, worker: str) -> list[Exchange]:
        """What its engine has begun with, and nobody after it, as long as the client waits."""
        running = [exchange for exchange in self.load.exchanges if exchange.ended_at is None]
        return [each for each in running if [worker] == [name for _, name in self.starts(each)[-1:]]]

    def starts(self, exchange: Exchange) -> list[tuple[float, str]]:
        """When which worker's engine began with it, so far."""
        return starts_of(self._journal, exchange.prompt)

    def reply_queues(self) -> int:
        """How many queues the broker puts replies into."""
        listed = json.loads(self.node.rabbitmqctl("list_bindings", "source_name", "--formatter", "json"))
        return sum(binding["source_name"] == Topology(self._prefix).replies for binding in listed)

    def _is_idle(self) -> bool:
        self._before = self._count()
        problems = leftovers.problems(self._before, self._before)
        assert not problems, problems
        return True

    def nothing_is_left(self) -> bool:
        """Whether the fleet holds as little as before the load; says in the assertion what it holds."""
        assert self._before is not None
        problems = leftovers.problems(self._before, self._count())
        assert not problems, problems
        return True

    def _count(self) -> leftovers.Leftovers:
        processes = [self.controller.process, *self.workers.values()]
        pids = [process.pid for process in processes if process.returncode is None]
        return leftovers.count(self.controller, pids, self.nodes, self._prefix)
