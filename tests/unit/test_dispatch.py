"""Each policy, by what it chooses."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_controller.affinity import Affinity
from broker_controller.dispatch import DispatchMethod, Lottery, Queue, ShortestQueue, make_dispatcher
from broker_controller.warm_caches import WarmCaches
from broker_controller.worker_record import WorkerRecord
from broker_wire.messages import Load


def worker(name: str, speed: float = 1.0, queue: int = 0, turn: int = 0) -> WorkerRecord:
    return WorkerRecord(name=name, instance=f"i-{name}", speed=speed, reported=Load(queue), turn=turn)


def shortest(*workers: WorkerRecord) -> str | None:
    chosen = ShortestQueue().choose(workers, 0.0)
    return None if chosen is None else chosen.name


def test_the_models_queue_is_never_a_worker() -> None:
    assert Queue().choose([worker("a"), worker("b")], 0.0) is None


@pytest.mark.parametrize("method", list(DispatchMethod))
def test_without_a_candidate_nobody_is_chosen(method: DispatchMethod) -> None:
    assert make_dispatcher(method, Random(1), WarmCaches()).choose([], 0.0) is None


# --- shortest queue


def test_the_shortest_queue_for_its_speed_is_chosen() -> None:
    assert shortest(worker("a", queue=2), worker("b", queue=1)) == "b"
    assert shortest(worker("slow", speed=1, queue=2), worker("fast", speed=4, queue=6)) == "fast"


def test_what_was_just_sent_counts() -> None:
    a, b = worker("a"), worker("b")
    a.note_sent(1, 0.0)
    assert shortest(a, b) == "b"


def test_equals_take_turns_and_the_first_registered_begins() -> None:
    assert shortest(worker("a"), worker("b")) == "a"
    assert shortest(worker("a", turn=7), worker("b", turn=3)) == "b"


@pytest.mark.parametrize("speed", [0.0, -1.0])
def test_a_worker_without_speed_is_the_last_choice(speed: float) -> None:
    assert shortest(worker("none", speed=speed), worker("busy", speed=0.001, queue=1000)) == "busy"
    assert shortest(worker("a", speed=speed, queue=2), worker("b", speed=speed, queue=1)) == "b"


# --- lottery


def test_ten_thousand_draws_are_in_proportion_to_the_speeds() -> None:
    lottery = Lottery(Random(42))
    workers = [worker("a", speed=1), worker("b", speed=2), worker("c", speed=7), worker("none", speed=0)]
    drawn: Counter[str] = Counter()
    for _ in range(10_000):
        chosen = lottery.choose(workers, 0.0)
        assert chosen is not None
        drawn[chosen.name] += 1
    assert drawn["none"] == 0
    # Five standard deviations of the binomial distributions.
    assert abs(drawn["a"] - 1000) < 150
    assert abs(drawn["b"] - 2000) < 200
    assert abs(drawn["c"] - 7000) < 230


def test_the_same_seed_draws_the_same_lots() -> None:
    workers = [worker("a"), worker("b")]
    first, second = Lottery(Random(3)), Lottery(Random(3))
    assert [first.choose(workers, 0.0) for _ in range(50)] == [second.choose(workers, 0.0) for _ in range(50)]


def test_a_lottery_without_any_speed_has_no_winner() -> None:
    assert Lottery(Random(1)).choose([worker("a", speed=0), worker("b", speed=-2)], 0.0) is None


@given(
    speeds=st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=5),
    queues=st.lists(st.integers(0, 10**9), min_size=5, max_size=5),
)
def test_any_speeds_and_loads_that_a_record_can_have_give_a_choice(speeds: list[float], queues: list[int]) -> None:
    workers = [worker(str(number), speed, queues[number]) for number, speed in enumerate(speeds)]
    assert ShortestQueue().choose(workers, 0.0) in workers
    winner = Lottery(Random(1)).choose(workers, 0.0)
    assert (winner is None) == (not any(speeds))


# --- names


@pytest.mark.parametrize("name", ["queue", "lottery", "shortest_queue", "affinity"])
def test_a_method_is_known_by_its_name(name: str) -> None:
    assert DispatchMethod.from_str(name).value == name
    assert DispatchMethod.from_str(DispatchMethod(name)) is DispatchMethod(name)


def test_another_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match="no dispatch method 'random'; choose one of: queue, lottery, shortest_queue, affinity"
    ):
        DispatchMethod.from_str("random")


def test_each_method_has_its_policy() -> None:
    kinds = [type(make_dispatcher(method, Random(1), WarmCaches())) for method in DispatchMethod]
    assert kinds == [Queue, Lottery, ShortestQueue, Affinity]
