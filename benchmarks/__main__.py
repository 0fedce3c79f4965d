"""`python -m benchmarks` (`make bench`): the product, the engine without a proxy, and other gateways, in one run.

Starts a private broker (or uses that of AMQP_URL), controllers, workers, the mock engine and the others; all end with
it.
"""

import argparse
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
import uvloop

from benchmarks import open_streams, real_model
from benchmarks.canned import canned_server, chunked_answer
from benchmarks.figures import show_spread, spread
from benchmarks.load import PROMPT, Load, run_round
from benchmarks.peers import Absent, start_peers
from benchmarks.processes import Processes, StartError, last_words
from benchmarks.report import goals, report
from benchmarks.scenarios import FAST_MODEL, Lost, Measured, Target, error_sentences, measure
from benchmarks.stack import broker_of_run, broker_version, start_behind_http, start_mock_engine, start_native
from broker_controller.local_broker import NoBrokerError, RunningBroker
from broker_controller.private_node import PrivateNodeError
from broker_wire.errors import BrokerError

_NOTE = """\
Two ways to have an engine. *Native*: the echo engine in the worker's process, which hands over an answer at once, so
that it is carried in few messages and writes; no gateway can have that. *HTTP engine*: the same mock server that stands
behind the others, reached by the worker beside it; only that compares gateway with gateway. Every answer's text was
compared with what was asked for."""
_PACKAGES = ("broker-controller", "pika", "msgspec", "uvicorn", "starlette", "uvloop")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each scenario and target (default 3)")
    parser.add_argument("--open", type=int, default=10_000, metavar="N", help="streams held open (default 10,000)")
    parser.add_argument("--hold", type=float, default=60.0, metavar="S", help="seconds for which they are (default 60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures there")
    return parser


def machine(broker: str) -> dict[str, str]:
    """What the figures depend on, for the header."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "commit": _commit(),
        "machine": f"{os.cpu_count()} × {_processor()}, {_memory()}, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "RabbitMQ": broker,
        **{name: _version(name) for name in _PACKAGES},
    }


def _commit() -> str:
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a clone"


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # PackageNotFoundError is one: run from the source alone
        return "not installed"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


async def _own_limit(rounds: int) -> list[float]:
    """Tokens per second that the load generator reads when the answers cost nothing to make."""
    load = Load(model=FAST_MODEL, streams=50, tokens=100, requests=40)
    async with canned_server(chunked_answer(PROMPT, load.tokens)) as url:
        return [(await run_round(url, load)).tokens_per_second for _ in range(rounds)]


class Run(msgspec.Struct):
    """All that one run has found; `real` is empty where llama.cpp is not installed."""

    facts: dict[str, str]
    results: list[Measured]
    targets: list[Target]
    absent: list[Absent]
    own_limit: list[float]
    held: open_streams.Held
    real: list[real_model.RealModel]


def _report(run: Run) -> str:
    limit = f"The load generator alone reads {show_spread(spread(run.own_limit))} tokens/s of canned answers."
    absent = [f"{peer.name}: absent ({peer.reason})" for peer in run.absent]
    facts = [f"{name}: {value}" for name, value in run.facts.items()]
    tables = [
        goals(run.results, run.held),
        report(run.results, run.targets),
        open_streams.report(run.held),
        real_model.report(run.real),
    ]
    return "\n\n".join(["\n".join(facts + absent), *tables, limit, _NOTE])


def _run(broker: RunningBroker, rounds: int, streams: int, hold: float) -> Run:
    began = time.monotonic()
    facts = machine(uvloop.run(broker_version(broker.url)) + ", " + broker.describe())
    broker_pid = broker.node.pid if broker.node is not None else None
    with Processes() as processes:
        engine = start_mock_engine(processes)
        ours = start_native(processes, broker.url, broker_pid)
        behind_http = start_behind_http(processes, broker.url, broker_pid, engine)
        peers, absent = start_peers(processes, engine)
        targets = [engine, *ours, behind_http, *peers]

        def check(target: Target) -> None:
            try:
                processes.check({pid for pids in target.pids.values() for pid in pids})
            except StartError as error:
                raise Lost(last_words(error)) from error

        results, lost = uvloop.run(measure(targets, rounds, check))
    absent += [Absent(name, f"lost on the way: {reason}") for name, reason in lost.items()]
    own_limit = uvloop.run(_own_limit(rounds))
    held = open_streams.run(broker, streams, hold)
    try:
        real = real_model.measure(broker.url, rounds)
    except StartError as error:
        real = []
        absent.append(Absent("a real model", last_words(error)))
    facts["took"] = f"{(time.monotonic() - began) / 60:.1f} minutes"
    return Run(facts, results, targets, absent, own_limit, held, real)


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended as on Ctrl-C
    try:
        with broker_of_run() as broker:
            run = _run(broker, arguments.rounds, arguments.open, arguments.hold)
    except (NoBrokerError, PrivateNodeError, BrokerError, StartError, Lost, OSError) as error:
        print(f"the benchmark could not be run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    run.facts["command"] = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    print(_report(run))
    errors = error_sentences(run.results)
    for sentence, count in sorted(errors.items(), key=lambda item: -item[1])[:10]:
        print(f"{count} × {sentence}", file=sys.stderr)
    if arguments.json is not None:
        document = {
            "facts": run.facts,
            "absent": run.absent,
            "results": _plain(run.results),
            "own_limit": run.own_limit,
            "held": run.held,
            "real": run.real,
        }
        # As msgspec writes it, what was not measured is null.
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
    ours = [sentence for sentence in errors if sentence.startswith(("no proxy", "broker-controller"))]
    return 1 if ours or run.held.outcome.errors else 0


def _plain(results: list[Measured]) -> list[dict[str, object]]:
    return [
        {
            "scenario": measured.scenario.title,
            "load": msgspec.to_builtins(msgspec.structs.replace(measured.scenario.load, prompt="…")),
            "outcomes": msgspec.to_builtins(measured.outcomes),
            "cpu": measured.cpu,
        }
        for measured in results
    ]


if __name__ == "__main__":
    sys.exit(main())
