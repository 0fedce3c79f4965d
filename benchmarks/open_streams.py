"""`python -m benchmarks.open_streams`: thousands of streams open at the same time, a token a second each, for a minute.

What most streams of a large fleet do most of the time is to wait for their next token. Measured are errors, the memory
that an open stream costs in each process, how late tokens are, and the processors' time.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import msgspec
import uvloop

from benchmarks.answers import OPENAI
from benchmarks.cpu import cpu_seconds, resident_bytes
from benchmarks.figures import show, table
from benchmarks.load import Load, Outcome, connect, outcome_of, request_bytes
from benchmarks.processes import Processes, StartError
from benchmarks.stack import broker_of_run, serves, start_controller, worker_command
from benchmarks.stream_client import StreamConnection
from broker_controller.local_broker import NoBrokerError, RunningBroker
from broker_controller.open_files import raise_limit
from broker_controller.private_node import PrivateNodeError
from broker_wire.errors import BrokerError

MODEL = "one-a-second"
RAMP_RATE = 1000.0  # streams that are opened a second
SETTLE = 2.0  # seconds from the last start to the first look


class Held(msgspec.Struct, frozen=True):
    """What was found; `before`, `open` and `cpu` by process: bytes, bytes, and shares of one core."""

    streams: int
    seconds: float
    most_open: int
    outcome: Outcome
    before: dict[str, int]
    open: dict[str, int]
    cpu: dict[str, float]

    def kilobytes(self, process: str) -> float:
        """Of its memory, that one stream takes."""
        return (self.open[process] - self.before[process]) / self.streams / 2**10


async def hold(base: str, pids: Mapping[str, tuple[int, ...]], streams: int, seconds: float) -> Held:
    """Open so many streams, hold them for so long, and let them come to their end.

    Raises: OSError, TimeoutError, when connections are not accepted.
    """
    ramp = streams / RAMP_RATE
    # The first ones are still open when the last one has been for the whole time.
    tokens = int(seconds + ramp + SETTLE) + 1
    load = Load(model=MODEL, streams=streams, tokens=tokens, start_spread=ramp, pace=1.0, timeout=tokens + 60.0)
    parts = urlsplit(base + OPENAI.path)
    before = resident_bytes(pids)
    connections = await connect(parts, streams, OPENAI)
    request = request_bytes(parts, load)
    started = perf_counter()
    for number, connection in enumerate(connections):
        connection.start(request, 1)
        await asyncio.sleep(max(0.0, started + (number + 1) / RAMP_RATE - perf_counter()))
    await asyncio.sleep(SETTLE)
    at, used = perf_counter(), _cpu_of(pids)
    most_open = sum(_is_open(connection) for connection in connections)
    opened = resident_bytes(pids)
    await asyncio.sleep(seconds)
    elapsed = perf_counter() - at
    cpu = {what: (after - used[what]) / elapsed for what, after in _cpu_of(pids).items()}
    await asyncio.wait([connection.finished for connection in connections], timeout=load.timeout)
    outcome = outcome_of(connections, load, OPENAI, perf_counter() - started, 0.0)
    await asyncio.gather(*(connection.aclose() for connection in connections))
    return Held(streams, seconds, most_open, outcome, before, opened, cpu)


def _is_open(connection: StreamConnection) -> bool:
    """A token has come, and the end has not."""
    return any(exchange.first_content and exchange.ended is None for exchange in connection.exchanges)


def _cpu_of(pids: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    return {what: cpu_seconds(those) for what, those in {**pids, "load generator": (os.getpid(),)}.items()}


def report(held: Held) -> str:
    """As Markdown."""
    rows = [
        [what, _megabytes(held.before[what]), _megabytes(opened), show(held.kilobytes(what)), show(held.cpu[what])]
        for what, opened in held.open.items()
    ]
    rows.append(["load generator", "", "", "", show(held.cpu["load generator"])])
    outcome = held.outcome
    facts = [
        ["streams that were open at the same time", f"{held.most_open:,} of {held.streams:,}"],
        ["whole and right answers", f"{outcome.answers:,}"],
        ["wrong or missing", f"{sum(outcome.errors.values()):,}"],
        ["TTFT p50, p99, ms", f"{show(outcome.ttft_p50)}, {show(outcome.ttft_p99)}"],
        ["lateness of a token p50, p99, ms", f"{show(outcome.lateness_p50)}, {show(outcome.lateness_p99)}"],
    ]
    header = ["process", "MB before", "MB with all open", "KB a stream", "cores while held"]
    return table([f"{held.streams:,} open streams", ""], facts) + "\n\n" + table(header, rows)


def _megabytes(size: int) -> str:
    return show(size / 2**20)


def run(broker: RunningBroker, streams: int, seconds: float) -> Held:
    """With a controller and a worker of its own. Raises: StartError, OSError."""
    # Not before: a broker that this run starts would inherit it, and Erlang takes memory for every file it may open.
    raise_limit()
    with Processes() as processes:
        # Each stream is a connection from this one address: more than one address has ports for is not asked.
        base, controller = start_controller(processes, broker.url, "--max-inflight-bytes", str(2**32))
        command = worker_command(broker.url, [MODEL], streams, "--tokens-per-second", "1")
        worker = processes.start("the worker", command, partial(serves, base, MODEL))
        pids = {"controller": (controller,), "worker": (worker,)}
        if broker.node is not None:
            pids["broker"] = (broker.node.pid,)
        return uvloop.run(hold(base, pids, streams, seconds))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000, help="at the same time (default 10,000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which all are held (default 60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended as on Ctrl-C
    try:
        with broker_of_run() as broker:
            held = run(broker, arguments.streams, arguments.seconds)
    except (NoBrokerError, PrivateNodeError, BrokerError, StartError, OSError) as error:
        print(f"it could not be measured: {error}", file=sys.stderr)
        return 1
    print(report(held))
    for sentence, count in sorted(held.outcome.errors.items(), key=lambda item: -item[1])[:5]:
        print(f"{count} × {sentence}", file=sys.stderr)
    if arguments.json is not None:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(held), indent=1))
    return 1 if held.outcome.errors else 0


if __name__ == "__main__":
    sys.exit(main())
