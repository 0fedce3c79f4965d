"""`python -m benchmarks.fleet`: a thousand workers and three controllers on a cluster of three RabbitMQ nodes.

How soon every controller knows every worker, what heartbeats cost it, what a worker weighs, and what the loss of a node
does. The workers are real to everybody but to their machine: a few processes hold them, see `fleet_workers`.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from benchmarks.__main__ import machine
from benchmarks.cpu import cpu_seconds, resident_bytes
from benchmarks.figures import show, table
from benchmarks.processes import Processes, StartError
from benchmarks.stack import broker_version, ready_ages, ready_workers, start_controller
from broker_controller.private_node import PrivateNodeError
from tests.faults.cluster import Cluster

PREFIX = "bc-benchmark-fleet"
IDLE_SECONDS = 15.0
POLL = 1.0  # seconds between two looks at who is ready: a status of all workers costs the controller, too
HEARD = 12.0  # seconds since a worker's last word, at most: two heartbeats and a look
QUIET = 30.0  # seconds for which all have to be heard until a loss counts as overcome: it takes HEARD to be seen
PATIENCE = 300.0  # seconds until something that does not come is given up


class Looks(msgspec.Struct, frozen=True):
    """Of each process: its share of one core over some seconds, and its resident bytes at their end."""

    cores: dict[str, float]
    resident: dict[str, int]


class Loss(msgspec.Struct):
    """Of a node, as controllers of other nodes see it.

    Attributes:
        fewest: workers that one of them heard in the last `HEARD` seconds, after a node was killed.
        lost: workers that it took for lost, at most, and gave no requests.
        recovered: from that kill until none of them heard fewer than all any more; None: not in
            `PATIENCE` seconds.
        after: how many were heard then.
    """

    fewest: int
    lost: int
    recovered: float | None
    after: int


class Found(msgspec.Struct):
    """Seconds where nothing else is said.

    Attributes:
        converged: from the start of the last worker until the last controller knew all.
        newcomer: from the readiness of a controller that was started beside them until it knew all.
        loss: after a node was killed.
    """

    facts: dict[str, str]
    workers: int
    idle: Looks
    steady: Looks
    converged: float
    newcomer: float
    loss: Loss


def look(pids: dict[str, tuple[int, ...]], seconds: float) -> Looks:
    """What these use for so long."""
    started, before = time.monotonic(), {what: cpu_seconds(those) for what, those in pids.items()}
    time.sleep(seconds)
    elapsed = time.monotonic() - started
    cores = {what: (cpu_seconds(those) - before[what]) / elapsed for what, those in pids.items()}
    return Looks(cores, resident_bytes(pids))


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """Seconds until it holds. Raises: StartError, after `PATIENCE`."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > PATIENCE:
            raise StartError(f"within {PATIENCE:g} s it did not come: {what}")
        time.sleep(POLL)
    return time.monotonic() - started


def watch(bases: Sequence[str], workers: int) -> Loss:
    """From now on, until all have been heard for `QUIET` seconds, or `PATIENCE` is over."""
    loss, started, last = Loss(workers, 0, None, 0), time.monotonic(), 0.0
    while (now := time.monotonic() - started) < min(PATIENCE, last + QUIET):
        ages = [ready_ages(base) for base in bases]
        loss.after = min(sum(age < HEARD for age in those) for those in ages)
        loss.fewest = min(loss.fewest, loss.after)
        loss.lost = max(loss.lost, workers - min(map(len, ages)))
        if loss.after < workers:
            last = now
        time.sleep(POLL)
    if loss.after == workers:
        loss.recovered = last
    return loss


def start_workers(processes: Processes, urls: Sequence[str], count: int, number: int) -> tuple[int, ...]:
    """So many workers in `number` processes; returns when all of them are started. Raises: StartError."""
    pids = []
    for place in range(number):
        mine = count // number + (place < count % number)
        command = [sys.executable, "-m", "benchmarks.fleet_workers", "--name", f"p{place}", "--workers", str(mine)]
        addresses = [f"--broker-url={url}" for url in urls]
        pids.append(processes.start(f"workers {place}", [*command, *addresses, "--prefix", PREFIX], lambda: True))
    for pid in pids:
        wait_for(partial(processes.has_written, pid, "all are started"), "the start of all workers")
    return tuple(pids)


def measure(cluster: Cluster, processes: Processes, workers: int, number: int, seconds: float) -> Found:
    """Raises: StartError."""
    urls = [cluster.urls(node) for node in cluster.nodes]
    started = [start_controller(processes, url, prefix=PREFIX) for url in urls]
    bases = [base for base, _ in started]
    pids: dict[str, tuple[int, ...]] = {f"controller {place}": (pid,) for place, (_, pid) in enumerate(started, 1)}
    pids |= {f"node {place}": (node.pid,) for place, node in enumerate(cluster.nodes, 1)}
    idle = look(pids, IDLE_SECONDS)
    pids["all workers"] = start_workers(processes, urls, workers, number)
    converged = wait_for(
        lambda: all(ready_workers(base) == workers for base in bases), "all workers at all controllers"
    )
    steady = look(pids, seconds)
    base, _ = start_controller(processes, urls[0], prefix=PREFIX)
    newcomer = wait_for(lambda: ready_workers(base) == workers, "all workers at a new controller")
    cluster.nodes[-1].kill()
    return Found({}, workers, idle, steady, converged, newcomer, watch(bases[:-1], workers))


def report(found: Found) -> str:
    """As Markdown."""
    workers = found.workers
    rows = []
    for what, cores in found.steady.cores.items():
        before, after = found.idle.resident.get(what, 0), found.steady.resident[what]
        idle = found.idle.cores.get(what)
        weight = show((after - before) / workers / 1024)
        rows.append([what, "–" if idle is None else show(idle), show(cores), show(after / 2**20), weight])
    header = ["process", "cores, no worker", f"cores, {workers:,} workers", "MB", "KB a worker"]
    facts = [
        ["every controller knows every worker, after the last one's start", f"{show(found.converged)} s"],
        ["a controller started beside them knows all, after it is ready", f"{show(found.newcomer)} s"],
        [f"a node is killed: workers heard in the last {HEARD:g} s, at least", f"{found.loss.fewest:,}"],
        ["a node is killed: workers taken for lost, at most", f"{found.loss.lost:,}"],
        ["a node is killed: all are heard again after", _recovered(found.loss)],
    ]
    lines = [f"{name}: {value}" for name, value in found.facts.items()]
    return "\n\n".join(["\n".join(lines), table(header, rows), table([f"{workers:,} workers", ""], facts)])


def _recovered(loss: Loss) -> str:
    if loss.recovered is None:
        return f"not within {PATIENCE:g} s: {loss.after:,} are"
    return f"{show(loss.recovered)} s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4, help="that hold them (default 4)")
    parser.add_argument("--seconds", type=float, default=30.0, help="for which the steady state is watched")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended as on Ctrl-C
    try:
        with Cluster() as cluster, Processes() as processes:
            found = measure(cluster, processes, arguments.workers, arguments.processes, arguments.seconds)
            version = uvloop.run(broker_version(cluster.nodes[0].url))
            found.facts = machine(f"{version}, a cluster of {len(cluster.nodes)}")
    except (PrivateNodeError, StartError, OSError) as error:
        print(f"it could not be measured: {error}", file=sys.stderr)
        return 1
    print(report(found))
    if arguments.json is not None:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
