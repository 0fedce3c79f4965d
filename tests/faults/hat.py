"""The hat of `make soak`: faults by chance, weighted, one after the other.

One controller and one worker are spared, for their memory is watched; the others are killed, frozen, drained, cut off.
"""

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from broker_controller.private_node import PrivateNodeError
from broker_wire.topology import Topology
from tests.acceptance.fleet import RunningController
from tests.faults.scene import Scene
from tests.integration.amqp_harness import Proxy

SPARED = "w0"
VICTIMS = ("w1", "w2", "w3")


class Hat:
    """`cable` is the way of the last of the victims to the broker."""

    def __init__(self, scene: Scene, cable: Proxy, chance: random.Random) -> None:
        self.drawn: Counter[str] = Counter()
        self.doomed: RunningController | None = None
        """The controller that is not spared, while there is one."""
        self.killed: list[RunningController] = []
        self._scene = scene
        self._cable = cable
        self._chance = chance

    async def start(self) -> None:
        """The whole fleet."""
        urls = [""] * len(VICTIMS) + [self._cable.url]
        await asyncio.to_thread(self._scene.start, SPARED, *VICTIMS, broker_urls=urls)
        self.doomed = await asyncio.to_thread(self._scene.fleet.controller)

    async def draw(self) -> None:
        """One fault, some seconds after the last one."""
        await asyncio.sleep(self._chance.uniform(3.0, 12.0))
        faults: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._kill_worker),
            (4, self._freeze_worker),
            (4, self._drain_worker),
            (3, self._cut_cable),
            (3, self._freeze_cable),
            (3, self._kill_controller),
            (2, self._drain_controller),
            (2, self._close_connections),
            (2, self._close_one_connection),
            (2, self._delete_queue),
            (2, self._alarm),
            (1, self._restart_broker),
            (1, self._crash_broker),
        ]
        weights = [weight for weight, _ in faults]
        (chosen,) = self._chance.choices([fault for _, fault in faults], weights)
        name = chosen.__name__.strip("_")
        self.drawn[name] += 1
        print(f"{time.strftime('%X')} {name}", flush=True)
        await chosen()

    async def _kill_worker(self) -> None:
        name = self._chance.choice(VICTIMS)
        await asyncio.to_thread(self._scene.workers[name].kill)
        self._start_worker(name)

    async def _freeze_worker(self) -> None:
        worker = self._scene.workers[self._chance.choice(VICTIMS)]
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(self._chance.uniform(1.0, 20.0))
        worker.signal(signal.SIGCONT)

    async def _drain_worker(self) -> None:
        name = self._chance.choice(VICTIMS)
        self._scene.workers[name].terminate()
        await asyncio.to_thread(self._scene.workers[name].wait, 60.0)
        self._start_worker(name)

    def _start_worker(self, name: str) -> None:
        self._scene.start_worker(name, broker_url=self._cable.url if name == VICTIMS[-1] else "")

    async def _cut_cable(self) -> None:
        self._cable.cut()

    async def _freeze_cable(self) -> None:
        self._cable.freeze()
        await asyncio.sleep(self._chance.uniform(1.0, 20.0))
        self._cable.thaw()

    async def _kill_controller(self) -> None:
        doomed, self.doomed = self.doomed, None
        if doomed is not None:
            self.killed.append(doomed)
            await asyncio.to_thread(doomed.process.kill)
        self.doomed = await asyncio.to_thread(self._scene.fleet.controller)

    async def _drain_controller(self) -> None:
        """All that it has is finished first."""
        leaving, self.doomed = self.doomed, None
        if leaving is not None:
            leaving.process.terminate()
            await asyncio.to_thread(leaving.process.wait, 60.0)
        self.doomed = await asyncio.to_thread(self._scene.fleet.controller)

    async def _close_one_connection(self) -> None:
        listed = await asyncio.to_thread(self._scene.node.rabbitmqctl, "list_connections", "pid")
        pids = [line for line in listed.splitlines() if line.startswith("<")]
        if pids:
            with contextlib.suppress(PrivateNodeError):  # it has gone by itself meanwhile
                await self._rabbitmqctl("close_connection", self._chance.choice(pids), "by the soak test")

    async def _close_connections(self) -> None:
        await self._rabbitmqctl("close_all_connections", "by the soak test")

    async def _delete_queue(self) -> None:
        await self._rabbitmqctl("delete_queue", Topology("bc").model_queue("m").name)

    async def _alarm(self) -> None:
        await self._rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1")
        await asyncio.sleep(self._chance.uniform(1.0, 8.0))
        await self._rabbitmqctl("set_vm_memory_high_watermark", "0.4")

    async def _restart_broker(self) -> None:
        await asyncio.to_thread(self._scene.node.stop)
        await asyncio.to_thread(self._scene.node.start)

    async def _crash_broker(self) -> None:
        await asyncio.to_thread(self._scene.node.kill)
        await asyncio.to_thread(self._scene.node.start)

    async def _rabbitmqctl(self, *arguments: str) -> None:
        await asyncio.to_thread(self._scene.node.rabbitmqctl, *arguments)
