"""What is measured, and in which order: two targets, asked in turn, round after round.

Used by `python -m benchmarks`. It knows URLs and loads; which processes are behind them is stack.py's business.
"""

import sys
from collections.abc import Callable, Mapping

import msgspec

from benchmarks.figures import Spread, ratios, show_spread, spread
from benchmarks.load import Load, Outcome, run_round

FAST_MODEL = "echo"
PACED_MODEL = "echo-paced"
PACE = 50.0  # tokens a second and stream: 20 ms a token
MOST_STREAMS = 500


class Scenario(msgspec.Struct, frozen=True):
    """A load, and which figures of it are worth a row: the name of an outcome's field and what to call it."""

    title: str
    load: Load
    rows: dict[str, str]


_SPEED_ROWS = {
    "tokens_per_second": "tokens/s",
    "ttft_p50": "TTFT p50, ms",
    "ttft_p99": "TTFT p99, ms",
    "own_cpu": "load generator's share of a core",
}

SCENARIOS = (
    Scenario(
        "one at a time",
        Load(model=FAST_MODEL, streams=1, tokens=8, requests=300),
        {"ttft_p50": "TTFT p50, ms", "ttft_p99": "TTFT p99, ms"},
    ),
    Scenario("50 streams", Load(model=FAST_MODEL, streams=50, tokens=100, requests=30), _SPEED_ROWS),
    Scenario("200 streams", Load(model=FAST_MODEL, streams=200, tokens=100, requests=8), _SPEED_ROWS),
    Scenario(
        "500 streams, 20 ms a token",
        Load(model=PACED_MODEL, streams=MOST_STREAMS, tokens=100, start_spread=0.5),
        {
            "tokens_per_second": "tokens/s",
            "ttft_p50": "TTFT p50, ms",
            "ttft_p99": "TTFT p99, ms",
            "gap_p99": "pause between tokens p99, ms",
        },
    ),
)


class Target(msgspec.Struct, frozen=True):
    """Whom to ask. The first target of a run is the reference of the ratios."""

    name: str
    url: str


class Measured(msgspec.Struct, frozen=True):
    """All rounds of one scenario, by the target's name."""

    scenario: Scenario
    outcomes: dict[str, list[Outcome]]

    def errors(self, target: str) -> int:
        return sum(sum(outcome.errors.values()) for outcome in self.outcomes[target])

    def figures(self, target: str, field: str) -> list[float]:
        return [getattr(outcome, field) for outcome in self.outcomes[target]]


async def measure(targets: list[Target], rounds: int, check: Callable[[], None]) -> list[Measured]:
    """Runs all scenarios, the targets in turn; a first round of each is not counted. `check` raises if a process ended.

    Raises: OSError, TimeoutError, and what `check` raises.
    """
    results = []
    for scenario in SCENARIOS:
        outcomes: dict[str, list[Outcome]] = {target.name: [] for target in targets}
        for number in range(rounds + 1):
            _progress(f"{scenario.title}: {f'round {number} of {rounds}' if number else 'warm-up'}")
            # Turned round each time, so that neither is always the one that runs after the other.
            for target in targets if number % 2 else reversed(targets):
                outcome = await run_round(target.url, scenario.load)
                check()
                if number:
                    outcomes[target.name].append(outcome)
        results.append(Measured(scenario, outcomes))
    _progress("")
    return results


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<60}", end="" if text else "\r", file=sys.stderr, flush=True)


def rows(results: list[Measured], targets: list[Target]) -> list[list[str]]:
    """The table's rows: what, each target's median and range, and the ratio to the first target."""
    reference, *others = (target.name for target in targets)
    lines = []
    for measured in results:
        for field, label in measured.scenario.rows.items():
            cells = [show_spread(spread(measured.figures(target.name, field))) for target in targets]
            compared = [
                _show_ratio(ratios(measured.figures(other, field), measured.figures(reference, field)))
                for other in others
                if field != "own_cpu"
            ]
            lines.append([f"{measured.scenario.title}: {label}", *cells, *(compared or [""] * len(others))])
    errors = {target.name: sum(measured.errors(target.name) for measured in results) for target in targets}
    lines.append(["wrong or missing answers", *(str(errors[target.name]) for target in targets), *("" for _ in others)])
    return lines


def _show_ratio(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


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
