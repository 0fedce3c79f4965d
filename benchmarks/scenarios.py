"""What is measured, and in which order: all targets are asked in turn, round after round.

Used by `python -m benchmarks`. It knows URLs and loads; which processes are behind them is stack.py's and peers.py's
business, and how the results are shown is report.py's.
"""

import math
import sys
from collections.abc import Callable, Mapping

import msgspec

from benchmarks.answers import EMBEDDINGS, OPENAI, Protocol
from benchmarks.cpu import cpu_seconds
from benchmarks.load import PROMPT, Load, Outcome, run_round

FAST_MODEL = "echo"
PACED_MODEL = "echo-paced"
PACE = 50.0  # tokens a second and stream: 20 ms a token
MOST_STREAMS = 1000
LONG_PROMPT = " ".join([PROMPT] * 512)  # 32 KB


class Scenario(msgspec.Struct, frozen=True):
    """A load, and which figures of it are shown: the name of an outcome's field and what to call it.

    Attributes:
        slow_too: those in Python, which others are faster than by an order of magnitude, can be asked this.
        protocol: in which it is asked of all; None: in each target's own.
        warm_up: a round that is not counted goes before: not where a round takes as long as its answers.
    """

    title: str
    load: Load
    columns: dict[str, str]
    slow_too: bool = True
    protocol: Protocol | None = None
    warm_up: bool = True


_SPEED = {
    "tokens_per_second": "tokens/s",
    "ttft_p50": "TTFT p50, ms",
    "ttft_p99": "TTFT p99, ms",
    "own_cpu": "load generator, cores",
}
_REQUESTS = {"requests_per_second": "requests/s", "ttft_p50": "TTFT p50, ms", "ttft_p99": "TTFT p99, ms"}
_PACED = {
    "total_p50": "a whole answer p50, ms",
    "lateness_p50": "lateness p50, ms",
    "lateness_p99": "lateness p99, ms",
    "ttft_p50": "TTFT p50, ms",
}

IDLE = Scenario(
    "one at a time",
    Load(model=FAST_MODEL, streams=1, tokens=8, requests=200),
    {"ttft_p50": "TTFT p50, ms", "ttft_p99": "TTFT p99, ms"},
)
FIFTY = Scenario("50 streams × 100 tokens", Load(model=FAST_MODEL, streams=50, tokens=100, requests=16), _SPEED)
TWO_HUNDRED = Scenario("200 streams × 100 tokens", Load(model=FAST_MODEL, streams=200, tokens=100, requests=5), _SPEED)
SHORT = Scenario("50 streams × 5 tokens", Load(model=FAST_MODEL, streams=50, tokens=5, requests=30), _REQUESTS)
LONG = Scenario(
    "50 streams × 20 tokens, prompts of 32 KB",
    Load(model=FAST_MODEL, streams=50, tokens=20, requests=6, prompt=LONG_PROMPT),
    _REQUESTS,
    slow_too=False,
)
VECTORS = Scenario(
    "50 at once, an embedding of 64 numbers each",
    Load(model=FAST_MODEL, streams=50, tokens=1, requests=25),
    {"requests_per_second": "requests/s", "total_p50": "answer p50, ms"},
    slow_too=False,
    protocol=EMBEDDINGS,
)
PACED_500 = Scenario(
    "500 streams × 100 tokens, 20 ms a token: 1,980 ms at best",
    Load(model=PACED_MODEL, streams=500, tokens=100, start_spread=0.5, pace=PACE),
    _PACED,
    slow_too=False,
    warm_up=False,
)
PACED_1000 = Scenario(
    "1,000 streams × 100 tokens, 20 ms a token: 1,980 ms at best",
    Load(model=PACED_MODEL, streams=1000, tokens=100, start_spread=1.0, pace=PACE),
    _PACED,
    slow_too=False,
    warm_up=False,
)
SCENARIOS = (IDLE, FIFTY, TWO_HUNDRED, SHORT, LONG, VECTORS, PACED_500, PACED_1000)


class Target(msgspec.Struct, frozen=True):
    """Whom to ask. The first target of a run is the reference of the ratios.

    Attributes:
        base: its URL without a path.
        pids: of its processes, by what they are: what they started belongs to them.
        share: of a scenario's requests that it is asked; below 1 it is one of the slow ones.
        most_streams: at once that it is asked: more would take minutes.
        is_peer: the run goes on without it when it ends.
    """

    name: str
    base: str
    protocol: Protocol = OPENAI
    pids: dict[str, tuple[int, ...]] = {}
    share: float = 1.0
    most_streams: int = MOST_STREAMS
    is_peer: bool = False

    def can(self, scenario: Scenario) -> bool:
        """Whether this scenario is asked of it. In LLaVA's protocol no token has an event of its own."""
        if (self.share < 1.0 and not scenario.slow_too) or scenario.load.streams > self.most_streams:
            return False
        return self.protocol is OPENAI or not (scenario.load.pace or scenario.protocol)

    def protocol_of(self, scenario: Scenario) -> Protocol:
        """In which it is asked this."""
        return scenario.protocol or self.protocol

    def load(self, scenario: Scenario) -> Load:
        """What it is asked."""
        requests = max(1, round(scenario.load.requests * self.share))
        return msgspec.structs.replace(scenario.load, requests=requests)


class Measured(msgspec.Struct, frozen=True):
    """All rounds of one scenario, by the target's name; of `cpu`, microseconds a token by what the process is."""

    scenario: Scenario
    outcomes: dict[str, list[Outcome]]
    cpu: dict[str, list[dict[str, float]]]

    def errors(self, target: str) -> int:
        return sum(sum(outcome.errors.values()) for outcome in self.outcomes.get(target, ()))

    def figures(self, target: str, field: str) -> list[float]:
        return [getattr(outcome, field) for outcome in self.outcomes[target]]


class Lost(Exception):  # noqa: N818 - it is no fault of ours
    """A target cannot be asked any more; the reason, in a sentence."""


async def measure(
    targets: list[Target], rounds: int, check: Callable[[Target], None]
) -> tuple[list[Measured], dict[str, str]]:
    """Runs all scenarios, the targets in turn; a first round is not counted.

    `check` raises `Lost` if a process of the target ended. Returns what was measured, and which peers were lost on the
    way, with the reason: the scenario in which one was lost, and all later ones, are without it.

    Raises: Lost, of a target that is no peer.
    """
    lost: dict[str, str] = {}
    results = []
    for scenario in SCENARIOS:
        asked = [target for target in targets if target.can(scenario) and target.name not in lost]
        results.append(await _measure_one(scenario, asked, rounds, check, lost))
    return results, lost


async def _measure_one(
    scenario: Scenario, asked: list[Target], rounds: int, check: Callable[[Target], None], lost: dict[str, str]
) -> Measured:
    measured = Measured(scenario, {target.name: [] for target in asked}, {target.name: [] for target in asked})
    for number in range(0 if scenario.warm_up else 1, rounds + 1):
        _progress(f"{scenario.title}: {f'round {number} of {rounds}' if number else 'warm-up'}")
        # Turned round each time, so that none is always the one that runs after another.
        for target in asked if number % 2 else reversed(asked):
            # The slow ones have had what they do once, such as imports, with the first scenario.
            if target.name in lost or (target.share < 1.0 and not number and scenario is not IDLE):
                continue
            try:
                outcome, cpu = await _ask(target, scenario, check)
            except Lost as error:
                if not target.is_peer:
                    raise
                lost[target.name] = str(error)
                del measured.outcomes[target.name], measured.cpu[target.name]
                continue
            if number:
                measured.outcomes[target.name].append(outcome)
                measured.cpu[target.name].append(cpu)
    _progress("")
    return measured


async def _ask(target: Target, scenario: Scenario, check: Callable[[Target], None]) -> tuple[Outcome, dict[str, float]]:
    load, protocol = target.load(scenario), target.protocol_of(scenario)
    readings: list[dict[str, float]] = []

    def read() -> None:
        readings.append({what: cpu_seconds(pids) for what, pids in target.pids.items()})

    try:
        outcome = await run_round(target.base + protocol.path, load, protocol, before=read, after=read)
    except OSError as error:  # a TimeoutError is one, too
        check(target)
        raise Lost(f"it takes no connections: {error or 'not in time'}") from error
    check(target)
    before, after = readings
    tokens = outcome.answers * load.tokens or math.nan
    return outcome, {what: 1e6 * (after[what] - before[what]) / tokens for what in target.pids}


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<80}", end="" if text else "\r", file=sys.stderr, flush=True)


def error_sentences(results: list[Measured]) -> Mapping[str, int]:
    """What went wrong and how often, all targets together."""
    counts: dict[str, int] = {}
    for measured in results:
        for target, outcomes in measured.outcomes.items():
            for outcome in outcomes:
                for sentence, count in outcome.errors.items():
                    key = f"{target}, {measured.scenario.title}: {sentence}"
                    counts[key] = counts.get(key, 0) + count
    return counts
