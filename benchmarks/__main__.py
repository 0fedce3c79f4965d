"""`python -m benchmarks` (`make bench`): the whole chain beside an engine without a proxy, in one table.

Starts a private broker (or uses that of AMQP_URL), the controller, echo workers and the reference; all end with it.
"""

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

import msgspec
import uvloop

from benchmarks.canned import canned_server, chunked_answer
from benchmarks.figures import show_spread, spread, table
from benchmarks.load import PROMPT, Load, run_round
from benchmarks.processes import Processes, StartError
from benchmarks.scenarios import FAST_MODEL, Measured, Target, error_sentences, measure, rows
from benchmarks.stack import broker_version, start_broker_controller, start_no_proxy
from broker_controller.local_broker import NoBrokerError, RunningBroker, local_broker, private_broker
from broker_controller.private_node import PrivateNodeError
from broker_wire.errors import BrokerError

_NOTE = """\
At full speed the echo engine hands over an answer at once, and the product carries it in few messages and writes; the
reference writes each token by itself. Every answer's text was compared with what was asked for."""
_PACKAGES = ("broker-controller", "pika", "msgspec", "uvicorn", "starlette", "uvloop")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each scenario and target (default 5)")
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


def _report(facts: dict[str, str], results: list[Measured], targets: list[Target], own_limit: list[float]) -> str:
    reference, product = (target.name for target in targets)
    lines = rows(results, targets)
    lines.append(["the load generator alone, canned answers: tokens/s", show_spread(spread(own_limit)), "", ""])
    header = ["median of the rounds (min–max)", reference, product, f"{product} / {reference}"]
    return "\n".join([*(f"{name}: {value}" for name, value in facts.items()), "", table(header, lines), "", _NOTE])


def _run(broker: RunningBroker, rounds: int) -> tuple[dict[str, str], list[Measured], list[Target], list[float]]:
    facts = machine(uvloop.run(broker_version(broker.url)) + ", " + broker.describe())
    with Processes() as processes:
        targets = [start_no_proxy(processes), start_broker_controller(processes, broker.url)]
        results = uvloop.run(measure(targets, rounds, processes.check))
    return facts, results, targets, uvloop.run(_own_limit(rounds))


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended as on Ctrl-C
    given = os.environ.get("AMQP_URL")
    chosen: AbstractContextManager[RunningBroker] = local_broker(given) if given else private_broker()
    try:
        with chosen as broker:
            facts, results, targets, own_limit = _run(broker, arguments.rounds)
    except (NoBrokerError, PrivateNodeError, BrokerError, StartError, OSError) as error:
        print(f"the benchmark could not be run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    facts["command"] = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    print(_report(facts, results, targets, own_limit))
    errors = error_sentences(results)
    for sentence, count in sorted(errors.items(), key=lambda item: -item[1])[:10]:
        print(f"{count} × {sentence}", file=sys.stderr)
    if arguments.json is not None:
        document = {"facts": facts, "results": msgspec.to_builtins(results), "own_limit": own_limit}
        arguments.json.write_text(json.dumps(document, indent=1))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
