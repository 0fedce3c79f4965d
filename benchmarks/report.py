"""The tables of a benchmark: the goals first, as ratios, then each scenario with all targets. Pure."""

import statistics

import msgspec

from benchmarks.figures import Spread, ratios, show, show_spread, spread, table
from benchmarks.open_streams import Held
from benchmarks.scenarios import FIFTY, IDLE, PACED_500, PACED_1000, TWO_HUNDRED, Measured, Scenario, Target


def report(results: list[Measured], targets: list[Target]) -> str:
    """Each scenario, then the processor's time, as Markdown."""
    names = [target.name for target in targets]
    return "\n\n".join([*(_scenario(measured, names) for measured in results), _cpu(results, names)])


def _scenario(measured: Measured, names: list[str]) -> str:
    """The first figure has its ratio to the reference beside it, round by round."""
    reference = names[0]
    first, *others = measured.scenario.columns
    labels = measured.scenario.columns
    header = [
        measured.scenario.title,
        labels[first],
        f"× {reference}",
        *(labels[field] for field in others),
        "answers a round",
        "wrong or missing",
    ]
    rows = []
    for name in names:
        if name not in measured.outcomes:
            continue
        figures = measured.figures(name, first)
        ratio = "" if name == reference else show_spread(ratios(figures, measured.figures(reference, first)))
        cells = [show_spread(spread(measured.figures(name, field))) for field in others]
        answers = show(statistics.median(measured.figures(name, "answers")))
        rows.append([name, show_spread(spread(figures)), ratio, *cells, answers, str(measured.errors(name))])
    return table(header, rows)


def _cpu(results: list[Measured], names: list[str]) -> str:
    """A request's share is in it: all of the time of the answers, divided by their tokens."""
    header = ["CPU, µs a token", *(measured.scenario.title.partition(":")[0] for measured in results)]
    return table(header, [[name, *(_show_cpu(measured.cpu.get(name, [])) for measured in results)] for name in names])


def _show_cpu(rounds: list[dict[str, float]]) -> str:
    roles = list(dict.fromkeys(role for cpu in rounds for role in cpu))
    return ", ".join(f"{role} {show(statistics.median(cpu[role] for cpu in rounds))}" for role in roles)


class Goal(msgspec.Struct, frozen=True):
    """What one target should reach: a figure by itself, or its ratio to another target's.

    Attributes:
        at_least: whether more is better.
        against: the other target; "" for the figure by itself.
    """

    what: str
    scenario: Scenario
    field: str
    target: str
    bound: float
    at_least: bool
    against: str = ""


_NATIVE, _HTTP = "broker-controller, native", "broker-controller, HTTP engine"
GOALS = (
    *(
        Goal(f"tokens/s, native, {streams} streams", scenario, "tokens_per_second", target, bound, True, against)
        for streams, scenario in ((50, FIFTY), (200, TWO_HUNDRED))
        for target, against, bound in (
            (_NATIVE, "no proxy", 3.5),
            (_NATIVE, "vllm-router", 5.0),
            (f"{_NATIVE}, LLaVA's protocol", "LLaVA's controller", 40.0),
        )
    ),
    *(
        Goal(
            f"tokens/s, HTTP engine, {streams} streams", scenario, "tokens_per_second", _HTTP, 1.0, True, "vllm-router"
        )
        for streams, scenario in ((50, FIFTY), (200, TWO_HUNDRED))
    ),
    Goal("TTFT p50, native, 50 streams", FIFTY, "ttft_p50", _NATIVE, 1.0, False, "vllm-router"),
    Goal("idle TTFT p50, native", IDLE, "ttft_p50", _NATIVE, 0.8, False, "vllm-router"),
    Goal("a whole answer p50, 500 paced streams, ms", PACED_500, "total_p50", _NATIVE, 2100, False),
    Goal("lateness p99, 500 paced streams, ms", PACED_500, "lateness_p99", _NATIVE, 30, False),
    Goal("a whole answer p50, 1,000 paced streams, ms", PACED_1000, "total_p50", _NATIVE, 2300, False),
)


OPEN_KILOBYTES = 12.0
"""Of the controller's memory, that an open stream should take at most."""


def goals(results: list[Measured], held: Held) -> str:
    """Each goal and what was reached, as a table."""
    rows = []
    for goal in GOALS:
        measured = next(each for each in results if each.scenario.title == goal.scenario.title)
        compared = f" × {goal.against}" if goal.against else ""
        wanted = f"{'≥' if goal.at_least else '≤'} {show(goal.bound)}{compared}"
        reached = _reached(goal, measured)
        if reached is None:
            rows.append([goal.what, wanted, "–", f"{goal.against} was not measured"])
            continue
        if measured.errors(goal.target) or measured.errors(goal.against):
            rows.append([goal.what, wanted, show_spread(reached), "not comparable: wrong or missing answers"])
            continue
        is_met = reached.median >= goal.bound if goal.at_least else reached.median <= goal.bound
        rows.append([goal.what, wanted, show_spread(reached), _word(is_met)])
    rows += _held_goals(held)
    return table(["goal", "wanted", "reached, median (min–max)", ""], rows)


def _held_goals(held: Held) -> list[list[str]]:
    errors, kilobytes = sum(held.outcome.errors.values()), held.kilobytes("controller")
    all_open = not errors and held.most_open == held.streams
    is_small = kilobytes <= OPEN_KILOBYTES
    opened = f"{held.most_open:,}, {errors:,} errors"
    return [
        [f"{held.streams:,} open streams, {show(held.seconds)} s", "all, 0 errors", opened, _word(all_open)],
        ["an open stream in the controller, KB", f"≤ {show(OPEN_KILOBYTES)}", show(kilobytes), _word(is_small)],
    ]


def _word(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _reached(goal: Goal, measured: Measured) -> Spread | None:
    figures = measured.figures(goal.target, goal.field)
    if not goal.against:
        return spread(figures)
    if goal.against not in measured.outcomes:
        return None
    return ratios(figures, measured.figures(goal.against, goal.field))
