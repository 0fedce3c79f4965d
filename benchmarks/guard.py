"""`python -m benchmarks.guard` (`make bench-guard`): is the product slower than it was when guard.json was written?

Ratios to the engine without a proxy, from the rounds of one run, against those that are committed. A machine's noise is
in both; a ratio that is worse by 15 % or more is not noise.
"""

import argparse
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from benchmarks.__main__ import machine
from benchmarks.figures import ratios, show, table
from benchmarks.load import run_round
from benchmarks.processes import Processes, StartError
from benchmarks.scenarios import FIFTY, IDLE, PACED_500, Scenario, Target
from benchmarks.stack import broker_of_run, broker_version, start_behind_http, start_mock_engine, start_native
from broker_controller.local_broker import NoBrokerError, RunningBroker
from broker_controller.private_node import PrivateNodeError
from broker_wire.errors import BrokerError

COMMITTED = Path(__file__).parent / "guard.json"
WORST = 0.15
"""Of a ratio: what is worse by this much fails."""
ROUNDS = 9


class Watched(msgspec.Struct, frozen=True):
    """A figure of one scenario, as a ratio to the engine without a proxy."""

    name: str
    scenario: Scenario
    field: str
    more_is_better: bool


WATCHED = (
    Watched("idle TTFT", IDLE, "ttft_p50", False),
    Watched("tokens/s, 50 streams", FIFTY, "tokens_per_second", True),
    Watched("a whole answer, 500 paced streams", PACED_500, "total_p50", False),
)


class Committed(msgspec.Struct):
    """What was reached, by "target: figure", and where."""

    facts: dict[str, str]
    ratios: dict[str, float]


def compare(now: dict[str, float], committed: dict[str, float], better: dict[str, bool]) -> tuple[str, list[str]]:
    """A table of all, and the names of those that are worse by `WORST` or more. `better`: whether more is better."""
    rows, worse = [], []
    for name, ratio in now.items():
        before = committed.get(name)
        if before is None:
            rows.append([name, "–", show(ratio), "new"])
            continue
        change = ratio / before - 1 if better[name] else before / ratio - 1
        if change <= -WORST:
            worse.append(name)
        rows.append([name, show(before), show(ratio), f"{change:+.0%}{' worse' if name in worse else ''}"])
    return table(["ratio to no proxy", "committed", "now", "change (+ is better)"], rows), worse


async def measure(targets: list[Target]) -> tuple[dict[str, float], dict[str, bool], int]:
    """Medians of the rounds' ratios; whether more is better; wrong or missing answers."""
    found: dict[str, float] = {}
    better: dict[str, bool] = {}
    errors = 0
    for watched in WATCHED:
        figures: dict[str, list[float]] = {target.name: [] for target in targets}
        # A paced round takes as long as its answers.
        for number in range(1 + (3 if watched.scenario.load.pace else ROUNDS)):
            for target in targets if number % 2 else reversed(targets):
                outcome = await run_round(target.base + target.protocol.path, target.load(watched.scenario))
                errors += sum(outcome.errors.values())
                if number:
                    figures[target.name].append(getattr(outcome, watched.field))
        reference, *others = targets
        for target in others:
            name = f"{target.name}: {watched.name}"
            found[name] = ratios(figures[target.name], figures[reference.name]).median
            better[name] = watched.more_is_better
    return found, better, errors


def _run(broker: RunningBroker) -> tuple[dict[str, str], dict[str, float], dict[str, bool], int]:
    facts = machine(uvloop.run(broker_version(broker.url)))
    broker_pid = broker.node.pid if broker.node is not None else None
    with Processes() as processes:
        engine = start_mock_engine(processes)
        native, _ = start_native(processes, broker.url, broker_pid)
        targets = [engine, native, start_behind_http(processes, broker.url, broker_pid, engine)]
        return facts, *uvloop.run(measure(targets))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--update", action="store_true", help=f"write what is reached now to {COMMITTED.name}")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended as on Ctrl-C
    try:
        with broker_of_run() as broker:
            facts, found, better, errors = _run(broker)
    except (NoBrokerError, PrivateNodeError, BrokerError, StartError, OSError) as error:
        print(f"it could not be measured: {error}", file=sys.stderr)
        return 1
    if arguments.update:
        rounded = {name: round(ratio, 3) for name, ratio in found.items()}
        COMMITTED.write_bytes(msgspec.json.format(msgspec.json.encode(Committed(facts, rounded)), indent=1) + b"\n")
    committed = msgspec.json.decode(COMMITTED.read_bytes(), type=Committed)
    text, worse = compare(found, committed.ratios, better)
    print(text)
    print(f"committed: {committed.facts['commit']}, {committed.facts['date']}, {committed.facts['machine']}")
    if errors:
        print(f"{errors} answers were wrong or missing", file=sys.stderr)
    return 1 if worse or errors else 0


if __name__ == "__main__":
    sys.exit(main())
