"""`make soak`: a fleet under load for half an hour, and a fault out of the hat every few seconds.

Every answer is judged as in the fault tests. One controller, one worker and the broker's memory are watched from the
beginning to the end, so those two processes are spared; the others are killed, frozen and restarted. The seed that is
printed gives the same faults in the same order.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import httpx

from broker_controller.amqp_probe import free_port
from broker_controller.private_node import PrivateNode
from tests.acceptance.fleet import Fleet, RunningController
from tests.faults.client import Client, Protocol
from tests.faults.hat import SPARED, Hat
from tests.faults.history import Exchange, Verdict, judge
from tests.faults.scene import Scene
from tests.integration.amqp_harness import Proxy
from tests.processes import Processes
from tests.waiting import eventually_sync

CLIENTS = 12
DEADLINE = 240.0
"""Seconds in which every answer has to have ended, whatever happens to it on the way."""
SAMPLE_INTERVAL = 5.0
"""Seconds between two looks at the memory."""
FLAT = 1.2
"""The memory at the end, of that after the first fifth, is at most so much: it has to be a line that does not rise."""
WRONG = (Verdict.LOST, Verdict.DUPLICATED, Verdict.HUNG)


class Soak:
    """One run."""

    def __init__(self, scene: Scene, hat: Hat, chance: random.Random) -> None:
        self.verdicts: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.wrong: list[Exchange] = []
        self.memory: list[dict[str, float]] = []
        self._scene = scene
        self._hat = hat
        self._chance = chance
        self._over = asyncio.Event()
        self._number = 0

    async def run(self, seconds: float) -> None:
        """All of it."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(self._client())
            tasks.create_task(self._watch_memory())
            until = time.monotonic() + seconds
            try:
                while time.monotonic() < until:
                    await self._hat.draw()
            finally:
                self._over.set()

    # --- the clients

    async def _client(self) -> None:
        while not self._over.is_set():
            known = [each for each in (self._scene.controller, self._hat.doomed) if each is not None]
            await self._ask(self._chance.choice(known))

    async def _ask(self, controller: RunningController) -> None:
        self._number += 1
        now = time.monotonic()
        exchange = Exchange(
            id=f"s{self._number}",
            group="soak",
            prompt=f"s{self._number} {self._steps()} the quick brown fox".replace("  ", " "),
            tokens=self._chance.randint(5, 120),
            sent_at=now,
            deadline=now + DEADLINE,
        )
        protocol = self._chance.choice(list(Protocol))
        client = Client(controller.url, exchange, protocol, "m", {})
        leaver = None
        if self._chance.random() < 0.1:
            leaver = asyncio.get_running_loop().call_later(self._chance.uniform(0.0, 3.0), client.leave)
        await client.run()
        if leaver is not None:
            leaver.cancel()
        self._judge(exchange, controller)
        if exchange.errors or exchange.broken:
            await asyncio.sleep(self._chance.uniform(0.5, 1.5))

    def _steps(self) -> str:
        """Some engines block for a while, or raise."""
        return self._chance.choices(["", "block:3:15", "raise-once:0", "raise:3"], [92, 3, 3, 2])[0]

    def _judge(self, exchange: Exchange, controller: RunningController) -> None:
        if exchange.left:
            self.verdicts["left by the client"] += 1
        elif exchange.broken and controller in self._hat.killed:
            self.verdicts["with a killed controller"] += 1
        else:
            verdict = judge(exchange)
            self.verdicts[str(verdict)] += 1
            self.codes.update(str(error.get("code")) for error in exchange.errors)
            if verdict in WRONG:
                self.wrong.append(exchange)

    # --- memory

    async def _watch_memory(self) -> None:
        while not self._over.is_set():
            sample = {"time": time.monotonic()}
            pids = {"controller": self._scene.controller.process.pid, "worker": self._scene.workers[SPARED].pid}
            with contextlib.suppress(RuntimeError):  # the broker is away just now
                pids["broker"] = self._scene.node.pid
            for name, pid in pids.items():
                with contextlib.suppress(OSError):
                    sample[name] = _resident_mib(pid)
            self.memory.append(sample)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), SAMPLE_INTERVAL)

    def memory_by_fifths(self) -> dict[str, list[float]]:
        """For each process the median of each fifth of the run, MiB."""
        found = {}
        for name in ("controller", "worker", "broker"):
            values = [sample[name] for sample in self.memory if name in sample]
            fifth = max(1, len(values) // 5)
            parts = [values[start : start + fifth] for start in range(0, len(values), fifth)][:5]
            found[name] = [median(part) for part in parts]
        return found


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def _soak(scene: Scene, seed: int, minutes: float, samples: Path | None) -> int:
    began = time.monotonic()
    chance = random.Random(seed)
    async with Proxy(scene.node.url) as cable:
        hat = Hat(scene, cable, chance)
        await hat.start()
        soak = Soak(scene, hat, random.Random(chance.random()))
        await soak.run(minutes * 60)
        await asyncio.to_thread(eventually_sync, scene.nothing_is_left, 90.0)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes, {hat.drawn.total()} faults: {dict(hat.drawn)}")
    print(f"{soak.verdicts.total()} requests: {dict(soak.verdicts)}, errors by code: {dict(soak.codes)}")
    memory = soak.memory_by_fifths()
    for name, fifths in memory.items():
        print(f"memory of the {name}, MiB, by fifths: " + " ".join(f"{value:.0f}" for value in fifths))
    print("nothing is left over: no stream, slot, message, byte, open file or task")
    for exchange in soak.wrong[:10]:
        print(judge(exchange), exchange)
    if samples:
        await asyncio.to_thread(samples.write_text, json.dumps(soak.memory))
    return 1 if soak.wrong or any(fifths[-1] > fifths[1] * FLAT for fifths in memory.values()) else 0


def main() -> int:
    """The program. Returns: 1 when an answer was lost, duplicated or hung, or a process's memory grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--json", type=Path, help="keep the samples of the memory in this file")
    options = parser.parse_args()
    print(f"seed={options.seed}")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        node = stack.enter_context(PrivateNode())
        processes = Processes(folder, quiet=True)
        stack.callback(processes.end)
        client = stack.enter_context(httpx.Client(timeout=90))
        scene = Scene(processes, Fleet(processes, node.url, "bc", free_port, client), node, "bc", journal=folder)
        return asyncio.run(_soak(scene, options.seed, options.minutes, options.json))


if __name__ == "__main__":
    sys.exit(main())
