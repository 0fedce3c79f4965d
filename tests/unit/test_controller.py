"""`Controller` alone, without a broker: what LLaVA's controller does, ours does, too."""

from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest

from broker_controller.controller import Controller
from broker_controller.dispatch import DispatchMethod
from broker_controller.watched_clock import WatchedClock
from broker_wire.errors import NameRefusedError
from broker_wire.messages import Announce, Heartbeat, Load, ModelCard, Obituary, WorkerState

A, B = "http://a:1", "http://b:1"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def status(*models: str, speed: float = 1, queue_length: int = 0) -> dict[str, Any]:
    return {"model_names": list(models or ("m",)), "speed": speed, "queue_length": queue_length}


class Upstream:
    """The HTTP workers, as a probe reaches them."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[str] = []

    def __call__(self, name: str) -> Mapping[str, Any] | None:
        self.asked.append(name)
        answer: Mapping[str, Any] | None = self.answers.get(name)
        return answer


def controller(
    method: str = "shortest_queue", clock: Clock | None = None, upstream: Upstream | None = None
) -> Controller:
    return Controller(method, clock=clock or Clock(), random=Random(7), probe=upstream or Upstream())


def test_it_works_with_nothing_but_a_dispatch_method() -> None:
    alone = Controller("lottery")
    assert alone.register_worker("http://w", True, {"model_names": ["m"], "speed": 1, "queue_length": 0}) is True
    assert alone.list_models() == ["m"]
    assert alone.get_worker_address("m") == "http://w"
    assert alone.receive_heart_beat("http://w", 1) is True


def test_the_method_is_a_name_or_the_enum() -> None:
    assert Controller("queue").dispatch_method is DispatchMethod.QUEUE
    assert Controller(DispatchMethod.LOTTERY).dispatch_method is DispatchMethod.LOTTERY
    with pytest.raises(ValueError, match="no dispatch method"):
        Controller("best")


# --- registering


@pytest.mark.parametrize("given", [None, {}])
def test_without_a_status_the_worker_is_asked(given: dict[str, Any] | None) -> None:
    upstream = Upstream({A: status("asked")})
    asks = controller(upstream=upstream)
    assert asks.register_worker(A, True, given) is True
    assert asks.list_models() == ["asked"]
    assert asks.register_worker(B, True, given) is False
    assert upstream.asked == [A, B]
    assert [record.name for record in asks.registry.workers()] == [A]


def test_with_a_status_nobody_is_asked() -> None:
    upstream = Upstream()
    controller(upstream=upstream).register_worker(A, True, status())
    assert upstream.asked == []


@pytest.mark.parametrize(
    "malformed", [{"model_names": ["m"]}, {"model_names": 3, "speed": 1, "queue_length": 0}, ["m"]]
)
def test_a_malformed_status_registers_nobody(malformed: Any) -> None:
    refuses = controller()
    assert refuses.register_worker(A, True, malformed) is False
    assert refuses.list_models() == []


@pytest.mark.parametrize("name", ["", "a b", "ftp://a", "http://", "file:///etc/passwd", "x" * 129])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(NameRefusedError, match="is refused"):
        controller().register_worker(name, True, status())


def test_a_worker_of_the_broker_keeps_its_name() -> None:
    mixed = controller()
    mixed.registry.apply_announce(Announce("w", "i1", models=(ModelCard("m"),)), 1000.0)
    assert mixed.register_worker("w", True, status("other")) is False
    assert mixed.list_models() == ["m"]


# --- lists


def test_models_are_listed_sorted_and_once() -> None:
    lists = controller()
    lists.register_worker(A, True, status("z", "both"), multimodal=False)
    lists.register_worker(B, True, status("a", "both"), multimodal=True)
    assert lists.list_models() == ["a", "both", "z"]
    assert lists.list_multimodal_models() == ["a", "both"]
    assert lists.list_language_models() == ["both", "z"]


def test_a_removed_worker_is_gone_and_an_unknown_one_no_error() -> None:
    removes = controller()
    removes.register_worker(A, True, status())
    removes.remove_worker(A)
    removes.remove_worker(A)
    assert removes.list_models() == []
    assert removes.get_worker_address("m") == ""


# --- expiry


def test_a_worker_expires_ninety_seconds_after_its_last_heartbeat() -> None:
    clock = Clock()
    expires = controller(clock=clock)
    expires.register_worker(A, True, status())
    clock.now += 60
    assert expires.receive_heart_beat(A, 0) is True
    clock.now += 90
    assert expires.remove_stale_workers() == []
    clock.now += 0.1
    assert [record.name for record in expires.remove_stale_workers()] == [A]
    assert expires.list_models() == []


def test_a_worker_whose_heartbeat_is_not_checked_never_expires() -> None:
    clock = Clock()
    keeps = controller(clock=clock)
    keeps.register_worker(A, False, status())
    clock.now += 1e6
    assert keeps.remove_stale_workers() == []
    assert keeps.get_worker_address("m") == A


def test_the_time_of_the_check_can_be_given() -> None:
    given = controller()
    given.register_worker(A, True, status())
    assert len(given.remove_stale_workers(now=1091.0)) == 1


def test_a_heartbeat_of_somebody_unknown_is_answered_with_false() -> None:
    assert controller().receive_heart_beat(A, 0) is False


def test_nobody_expires_while_the_broker_lets_nobody_be_heard() -> None:
    base = Clock()
    watched = WatchedClock(base)
    blocked = Controller("queue", clock=watched, probe=Upstream())
    blocked.registry.apply_announce(Announce("w", "i1", models=(ModelCard("m"),)), watched())
    watched.stop()
    base.now += 3600
    assert blocked.remove_stale_workers() == []
    watched.run()
    base.now += 5
    assert blocked.remove_stale_workers() == []
    assert blocked.get_worker_address("m") == "w"
    base.now += 91
    assert len(blocked.remove_stale_workers()) == 1


# --- addresses


@pytest.mark.parametrize("method", list(DispatchMethod))
def test_no_address_for_an_unknown_model(method: DispatchMethod) -> None:
    knows = controller(method)
    assert knows.get_worker_address("m") == ""
    knows.register_worker(A, True, status("other"))
    assert knows.get_worker_address("m") == ""


def test_the_shortest_queue_counts_what_it_has_sent() -> None:
    shortest = controller("shortest_queue")
    shortest.register_worker(A, True, status(queue_length=2))
    shortest.register_worker(B, True, status())
    # B has 0, 1 and then 2 with what was sent there; of equals the one that was not chosen lately.
    assert [shortest.get_worker_address("m") for _ in range(4)] == [B, B, A, B]


def test_the_shortest_queue_is_relative_to_the_speed() -> None:
    shortest = controller("shortest_queue")
    shortest.register_worker(A, True, status(speed=1, queue_length=1))
    shortest.register_worker(B, True, status(speed=10, queue_length=5))
    assert [shortest.get_worker_address("m") for _ in range(5)] == [B] * 5


def test_a_heartbeat_tells_the_shortest_queue_anew() -> None:
    shortest = controller("shortest_queue")
    shortest.register_worker(A, True, status())
    shortest.register_worker(B, True, status())
    shortest.receive_heart_beat(A, 9)
    assert [shortest.get_worker_address("m") for _ in range(3)] == [B] * 3


def test_an_address_that_nobody_used_counts_for_two_seconds() -> None:
    clock = Clock()
    forgets = controller(clock=clock)
    forgets.register_worker(A, True, status())
    forgets.get_worker_address("m")
    assert forgets.worker_api_get_status()["queue_length"] == 1
    clock.now += 2
    assert forgets.worker_api_get_status()["queue_length"] == 0


def test_idle_workers_take_turns() -> None:
    clock = Clock()
    shortest = controller("shortest_queue", clock=clock)
    shortest.register_worker(A, True, status())
    shortest.register_worker(B, True, status())
    addresses = []
    for _ in range(4):
        addresses.append(shortest.get_worker_address("m"))
        clock.now += 2
    assert addresses == [A, B, A, B]


def test_the_lottery_is_in_proportion_to_the_speeds() -> None:
    lottery = controller("lottery")
    lottery.register_worker(A, True, status(speed=1))
    lottery.register_worker(B, True, status(speed=3))
    drawn = Counter(lottery.get_worker_address("m") for _ in range(10_000))
    assert abs(drawn[A] - 2500) < 220
    assert drawn[A] + drawn[B] == 10_000


def test_a_lottery_of_workers_without_speed_gives_no_address() -> None:
    lottery = controller("lottery")
    lottery.register_worker(A, True, status(speed=0))
    lottery.register_worker(B, True, status(speed=0))
    assert lottery.get_worker_address("m") == ""


def test_with_the_queue_an_address_is_the_least_loaded_workers_but_no_request_is_sent_to_it() -> None:
    queue = controller("queue")
    queue.register_worker(A, True, status(queue_length=1))
    queue.register_worker(B, True, status())
    assert queue.get_worker_address("m") == B
    assert queue.choose("m") is None


@pytest.mark.parametrize("method", ["lottery", "shortest_queue"])
def test_the_other_methods_choose_a_worker_for_a_request(method: str) -> None:
    chooses = controller(method)
    assert chooses.choose("m") is None
    chooses.registry.apply_announce(Announce("w", "i1", models=(ModelCard("m"),)), 1000.0)
    assert chooses.choose("m") == "w"


def test_choosing_alone_counts_nothing_and_sending_does() -> None:
    chooses = controller("shortest_queue")
    for name in ("v", "w"):
        chooses.registry.apply_announce(Announce(name, f"i-{name}", models=(ModelCard("m"),)), 1000.0)
    assert [chooses.choose("m"), chooses.choose("m")] == ["v", "v"]
    chooses.registry.note_sent("v", 1, 1000.0)
    assert chooses.choose("m") == "w"
    chooses.registry.note_sent("w", 2, 1000.0)
    assert chooses.choose("m") is None, "all are full: the model's queue, which may refuse it"


@pytest.mark.parametrize("method", list(DispatchMethod))
def test_a_lost_or_draining_worker_has_no_address(method: DispatchMethod) -> None:
    knows = controller(method)
    for name in ("dead", "leaving"):
        knows.registry.apply_announce(Announce(name, f"i-{name}", models=(ModelCard("m"),)), 1000.0)
    knows.registry.apply_obituary(Obituary("dead", "i-dead"), 1000.0)
    knows.registry.apply_heartbeat(Heartbeat("leaving", "i-leaving", state=WorkerState.DRAINING), 1000.0)
    assert knows.get_worker_address("m") == ""


# --- refreshing


def test_a_refresh_asks_again_and_drops_those_that_do_not_answer() -> None:
    upstream = Upstream({A: status("new")})
    refreshes = controller(upstream=upstream)
    refreshes.register_worker(A, False, status("old"), multimodal=True)
    refreshes.register_worker(B, True, status("old"))
    refreshes.refresh_all_workers()
    assert refreshes.list_models() == refreshes.list_multimodal_models() == ["new"]
    record = refreshes.registry.get(A)
    assert record is not None
    assert record.check_heart_beat is False
    assert refreshes.registry.get(B) is None


def test_a_refresh_leaves_workers_of_the_broker_alone() -> None:
    refreshes = controller()
    refreshes.registry.apply_announce(Announce("w", "i1", models=(ModelCard("m"),)), 1000.0)
    refreshes.refresh_all_workers()
    assert refreshes.list_models() == ["m"]


def test_the_registry_is_never_empty_during_a_refresh() -> None:
    seen: list[list[str]] = []

    def probe(name: str) -> dict[str, Any]:
        seen.append(refreshes.list_models())
        return status("m" if name == A else "n")

    refreshes = Controller("queue", clock=Clock(), probe=probe)
    refreshes.register_worker(A, True, status("m"))
    refreshes.register_worker(B, True, status("n"))
    refreshes.refresh_all_workers()
    assert seen == [["m", "n"], ["m", "n"]]


# --- status


def test_the_fleets_status_is_summed_over_the_live_workers_and_asks_nobody() -> None:
    upstream = Upstream()
    sums = controller(upstream=upstream)
    sums.register_worker(A, True, status("b", speed=2, queue_length=3))
    for name in ("w", "dead"):
        sums.registry.apply_announce(
            Announce(name, f"i-{name}", models=(ModelCard("a"),), speed=1.0, load=Load(2, 1, 0)), 1000.0
        )
    sums.registry.apply_obituary(Obituary("dead", "i-dead"), 1000.0)
    summed = sums.worker_api_get_status()
    assert summed == {"model_names": ["a", "b"], "speed": 3, "queue_length": 6}
    assert isinstance(summed["speed"], int)
    assert upstream.asked == []


def test_an_empty_fleet_has_a_status_too() -> None:
    assert controller().worker_api_get_status() == {"model_names": [], "speed": 0, "queue_length": 0}


def test_one_workers_status_comes_from_the_broker_or_from_itself() -> None:
    upstream = Upstream({A: status("from-itself", queue_length=5)})
    mixed = controller(upstream=upstream)
    mixed.register_worker(A, True, status("m"))
    mixed.registry.apply_announce(Announce("w", "i1", models=(ModelCard("n"),), speed=0.5, load=Load(1, 1, 0)), 1000.0)
    assert mixed.get_worker_status(A) == status("from-itself", queue_length=5)
    assert mixed.get_worker_status("w") == {"model_names": ["n"], "speed": 0.5, "queue_length": 2}
    assert mixed.get_worker_status(B) is None
