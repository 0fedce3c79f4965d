"""How loaded a worker is taken to be: its own report, and what the report cannot know yet."""

import pytest

from broker_controller.registry import Registry
from broker_controller.worker_record import ADDRESS_COUNTS, SENT_COUNTS
from broker_wire.messages import Announce, Heartbeat, Load, ModelCard


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    for name in ("a", "b"):
        registry.apply_announce(Announce(name, f"i-{name}", models=(ModelCard("m"),)), 0.0)
    return registry


def load(registry: Registry, name: str, now: float = 0.0) -> int:
    record = registry.get(name)
    assert record is not None
    return record.load(now)


def beat(registry: Registry, name: str, running: int, now: float = 0.0) -> None:
    assert registry.apply_heartbeat(Heartbeat(name, f"i-{name}", Load(running, 0, 0)), now)


def test_what_was_sent_counts_before_any_heartbeat_shows_it(registry: Registry) -> None:
    beat(registry, "a", 2)
    registry.note_sent("a", 1, 0.0)
    registry.note_sent("a", 2, 0.0)
    assert (load(registry, "a"), load(registry, "b")) == (4, 0)


def test_a_heartbeat_does_not_forget_what_is_still_on_its_way(registry: Registry) -> None:
    registry.note_sent("a", 1, 0.0)
    beat(registry, "a", 0)
    assert load(registry, "a") == 1


def test_a_started_request_counts_once_before_and_after_the_heartbeat_that_shows_it(registry: Registry) -> None:
    registry.note_sent("a", 1, 0.0)
    registry.note_started("a", 1)
    assert load(registry, "a") == 1
    beat(registry, "a", 1)
    assert load(registry, "a") == 1


def test_a_request_that_another_worker_started_counts_there(registry: Registry) -> None:
    registry.note_sent("a", 1, 0.0)
    registry.note_started("b", 1)
    assert (load(registry, "a"), load(registry, "b")) == (0, 1)


def test_a_request_from_the_models_queue_counts_from_its_start(registry: Registry) -> None:
    registry.note_started("b", 1)
    assert load(registry, "b") == 1


def test_a_request_that_is_over_counts_no_more(registry: Registry) -> None:
    registry.note_sent("a", 1, 0.0)
    registry.note_finished(1)
    registry.note_started("a", 2)
    registry.note_finished(2)
    registry.note_finished("never heard of")
    assert load(registry, "a") == 0


def test_a_request_sent_again_elsewhere_counts_only_there(registry: Registry) -> None:
    registry.note_sent("a", 1, 0.0)
    registry.note_sent("b", 1, 0.0)
    assert (load(registry, "a"), load(registry, "b")) == (0, 1)


def test_what_never_started_fell_back_to_the_models_queue(registry: Registry) -> None:
    registry.note_sent("a", 1, 0.0)
    assert load(registry, "a", SENT_COUNTS - 0.1) == 1
    assert load(registry, "a", SENT_COUNTS) == 0


def test_nothing_is_kept_of_requests_whose_end_is_never_told(registry: Registry) -> None:
    for number in range(1000):
        registry.note_sent("a", ("sent", number), float(number))
        registry.note_started("b", ("started", number))
        beat(registry, "b", 0, float(number))
    recent = registry._recent
    assert len(recent._sent) <= SENT_COUNTS + 1
    assert len(recent._started) == 0


@pytest.mark.parametrize("successor", [False, True])
def test_nothing_is_kept_of_a_worker_that_has_left(registry: Registry, successor: bool) -> None:
    registry.note_sent("a", 1, 0.0)
    registry.note_started("a", 2)
    if successor:
        registry.apply_announce(Announce("a", "j"), 0.0)
    else:
        registry.remove("a")
    recent = registry._recent
    assert not recent._sent
    assert not recent._started
    registry.note_finished(1)


def test_an_address_counts_for_two_seconds_whatever_a_heartbeat_says(registry: Registry) -> None:
    registry.note_address("a", 0.0)
    registry.note_address("a", 1.0)
    beat(registry, "a", 0, 1.0)
    assert load(registry, "a", 1.0) == 2
    assert load(registry, "a", ADDRESS_COUNTS) == 1
    assert load(registry, "a", 1.0 + ADDRESS_COUNTS) == 0


def test_an_address_counts_until_it_is_used(registry: Registry) -> None:
    registry.note_address("a", 0.0)
    registry.note_address_used("a", 0.5)
    assert load(registry, "a", 0.5) == 0
    registry.note_address_used("a", 0.5)
    assert load(registry, "a", 0.5) == 0


def test_what_is_noted_of_nobody_is_no_error(registry: Registry) -> None:
    registry.note_sent("nobody", 1, 0.0)
    registry.note_started("nobody", 2)
    registry.note_address("nobody", 0.0)
    registry.note_address_used("nobody", 0.0)
    assert load(registry, "a") == 0


def test_a_request_that_moves_to_nobody_leaves_where_it_was(registry: Registry) -> None:
    registry.note_sent("a", 1, 0.0)
    registry.note_started("nobody", 1)
    assert load(registry, "a") == 0


@pytest.mark.parametrize(("said", "believed"), [(-5, 0), (3, 3), (10**12, 4)])
def test_no_worker_has_more_free_slots_than_slots(said: int, believed: int) -> None:
    registry = Registry()
    registry.apply_announce(Announce("w", "i", slots=4, load=Load(free=said)), 0.0)
    record = registry.get("w")
    assert record is not None
    assert record.reported.free == believed
    registry.apply_heartbeat(Heartbeat("w", "i", Load(free=said)), 1.0)
    assert record.reported.free == believed
