"""The tables of the benchmark: goals as ratios, scenarios with those that were asked, and what was not measured."""

import math

import msgspec

from benchmarks.answers import EMBEDDINGS, LLAVA
from benchmarks.load import Outcome
from benchmarks.open_streams import Held
from benchmarks.report import GOALS, goals, report
from benchmarks.scenarios import (
    FIFTY,
    IDLE,
    LONG,
    PACED_500,
    SCENARIOS,
    SHORT,
    TWO_HUNDRED,
    VECTORS,
    Measured,
    Target,
)

NATIVE, NATIVE_LLAVA, HTTP = (
    "broker-controller, native",
    "broker-controller, native, LLaVA's protocol",
    "broker-controller, HTTP engine",
)


def outcome(speed: float) -> Outcome:
    """Each figure is the same number."""
    figures = dict.fromkeys(Outcome.__struct_fields__, speed)
    return Outcome(**figures | {"answers": 10, "errors": {}})  # type: ignore[arg-type]


def measured(*names: str) -> list[Measured]:
    """Two rounds of every scenario; the first target is slowest, each of the next ones is twice as fast."""
    speeds = {name: 100.0 * 2**place for place, name in enumerate(names)}
    return [
        Measured(
            scenario,
            {name: [outcome(speed), outcome(2 * speed)] for name, speed in speeds.items()},
            {name: [{"engine": speed}, {"engine": speed}] for name, speed in speeds.items()},
        )
        for scenario in SCENARIOS
    ]


def held(*, kilobytes: int, errors: int) -> Held:
    """10 streams, so large each in the controller."""
    found = outcome(1.0)
    if errors:
        found = msgspec.structs.replace(found, errors={"cut": errors})
    return Held(10, 60.0, 10, found, {"controller": 1024}, {"controller": 1024 + 10 * 1024 * kilobytes}, {})


def rows(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]


def test_a_goal_is_met_by_the_ratio_of_each_round_or_says_who_was_not_there() -> None:
    results = measured("no proxy", "vllm-router", HTTP, NATIVE, NATIVE_LLAVA)
    table = rows(goals(results, held(kilobytes=20, errors=0)))[2:]

    assert len(table) == len(GOALS) + 2
    reached = {tuple(row[:2]): row[2:] for row in table}
    assert reached["tokens/s, native, 50 streams", "≥ 3.50 × no proxy"] == ["8.00 (8.00–8.00)", "met"]
    assert reached["tokens/s, native, 50 streams", "≥ 5.00 × vllm-router"] == ["4.00 (4.00–4.00)", "missed"]
    assert reached["tokens/s, native, 50 streams", "≥ 40.0 × LLaVA's controller"] == [
        "–",
        "LLaVA's controller was not measured",
    ]
    assert reached["idle TTFT p50, native", "≤ 0.80 × vllm-router"] == ["4.00 (4.00–4.00)", "missed"]
    assert reached["lateness p99, 500 paced streams, ms", "≤ 30.0"] == ["1,200 (800–1,600)", "missed"]


def test_open_streams_have_goals_of_their_own() -> None:
    results = measured("no proxy", HTTP, NATIVE, NATIVE_LLAVA)
    opened, memory = rows(goals(results, held(kilobytes=20, errors=0)))[-2:]
    assert opened == ["10 open streams, 60.0 s", "all, 0 errors", "10, 0 errors", "met"]
    assert memory[1:] == ["≤ 12.0", "20.0", "missed"]
    opened, memory = rows(goals(results, held(kilobytes=8, errors=1)))[-2:]
    assert (opened[-1], memory[-1]) == ("missed", "met")


def test_a_scenario_has_who_was_asked_and_the_ratio_of_its_first_figure() -> None:
    targets = [Target("no proxy", "http://a"), Target(NATIVE, "http://b"), Target("slow", "http://c", share=0.1)]
    text = report(measured("no proxy", NATIVE), targets)

    first = rows(text.split("\n\n")[0])
    assert first[0][:3] == ["one at a time", "TTFT p50, ms", "× no proxy"]
    assert [row[0] for row in first[2:]] == ["no proxy", NATIVE]
    assert first[3][1:3] == ["300 (200–400)", "2.00 (2.00–2.00)"]
    assert rows(text.split("\n\n")[-1])[2][1] == "engine 100"


def test_the_slow_ones_are_asked_less_and_only_what_they_can_do_in_seconds() -> None:
    slow = Target("slow", "http://c", share=0.1, most_streams=50)

    assert slow.load(IDLE).requests == IDLE.load.requests // 10
    assert slow.load(PACED_500).requests == 1
    assert [scenario for scenario in SCENARIOS if slow.can(scenario)] == [IDLE, FIFTY, SHORT]
    assert not math.isnan(Target("fast", "http://c").load(SCENARIOS[0]).pace)


def test_who_speaks_llavas_protocol_is_asked_neither_for_paced_tokens_nor_for_vectors() -> None:
    llava = Target("llava", "http://c", LLAVA)

    assert [scenario for scenario in SCENARIOS if llava.can(scenario)] == [IDLE, FIFTY, TWO_HUNDRED, SHORT, LONG]
    assert llava.protocol_of(FIFTY) is LLAVA
    assert Target("openai", "http://c").protocol_of(VECTORS) is EMBEDDINGS
