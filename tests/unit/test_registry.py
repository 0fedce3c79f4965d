"""What workers say on the broker, and what the registry makes of it."""

import pytest

from broker_controller.registry import REVIVAL_DELAY, Change, Registry
from broker_controller.worker_record import RecordState
from broker_wire.codec import Stranger
from broker_wire.messages import Ability, Announce, Goodbye, Heartbeat, Load, ModelCard, Obituary, WorkerState

VISION = (Ability.CHAT, Ability.VISION)


def announce(worker: str = "w", instance: str = "i1", *models: str, **fields: object) -> Announce:
    cards = tuple(ModelCard(model) for model in models or ("m",))
    return Announce(worker, instance, **({"models": cards} | fields))  # type: ignore[arg-type]


def candidates(registry: Registry, model: str = "m", now: float = 0.0) -> list[str]:
    return [record.name for record in registry.workers_for(model, now)]


@pytest.fixture
def registry() -> Registry:
    """One worker `w` of instance i1, announced at 0 s, with model m."""
    registry = Registry()
    assert registry.apply_announce(announce(), 0.0) is Change.NEW
    return registry


def state_of(registry: Registry, name: str = "w") -> RecordState:
    record = registry.get(name)
    assert record is not None
    return record.state


# --- announces


@pytest.mark.parametrize("strange", [float("inf"), float("-inf"), float("nan")])
def test_a_start_at_no_time_of_day_is_not_known(strange: float) -> None:
    registry = Registry()
    registry.apply_announce(announce(started_at=strange), 0.0)
    record = registry.get("w")
    assert record is not None
    assert record.started_at == 0.0


def test_an_announced_worker_is_listed_and_a_candidate(registry: Registry) -> None:
    assert registry.models() == {"m"}
    assert candidates(registry) == ["w"]
    assert candidates(registry, "other") == []


def test_everything_that_a_worker_says_of_itself_is_shown() -> None:
    registry = Registry()
    said = Announce(
        "w",
        "i1",
        models=(ModelCard("m", VISION, 2048),),
        slots=4,
        speed=2.5,
        state=WorkerState.DRAINING,
        load=Load(3, 2, 1),
        shim="0.1.0",
        host="gpu7",
        pid=42,
        started_at=1_700_000_000.0,
    )
    registry.apply_announce(said, 10.0)
    registry.apply_heartbeat(Heartbeat("w", "i1", Load(4, 1, 0), WorkerState.DRAINING, 7, 900), 12.0)
    view = registry.workers()[0].view(15.0)
    assert (view.name, view.instance, view.state) == ("w", "i1", "draining")
    assert view.models == (ModelCard("m", VISION, 2048),)
    assert (view.slots, view.speed, view.running, view.waiting, view.free, view.load) == (4, 2.5, 4, 1, 0, 5)
    assert (view.last_seen_age, view.lost_for, view.started_at) == (3.0, None, 1_700_000_000.0)
    assert (view.host, view.pid, view.shim, view.protocol) == ("gpu7", 42, "0.1.0", "1.0")
    assert (view.bridged, view.address, view.check_heart_beat) == (False, None, True)
    assert (view.requests_done, view.tokens_done) == (7, 900)


def test_a_second_announce_updates_the_models(registry: Registry) -> None:
    assert registry.apply_announce(announce("w", "i1", "m", "n"), 1.0) is Change.UPDATED
    assert registry.models() == {"m", "n"}
    registry.apply_announce(announce("w", "i1", "n"), 2.0)
    assert registry.models() == {"n"}
    assert candidates(registry, "m") == []


def test_models_with_and_without_images_are_told_apart() -> None:
    registry = Registry()
    registry.apply_announce(announce("a", "i1", "text", "both"), 0.0)
    registry.apply_announce(announce("b", "i2", models=(ModelCard("images", VISION), ModelCard("both", VISION))), 0.0)
    assert registry.multimodal_models() == {"images", "both"}
    assert registry.language_models() == {"text", "both"}
    assert registry.models() == {"text", "images", "both"}


def test_a_model_announced_twice_makes_its_worker_one_candidate() -> None:
    registry = Registry()
    registry.apply_announce(announce("w", "i1", "m", "m"), 0.0)
    assert candidates(registry) == ["w"]


def test_numbers_that_are_none_do_not_get_in() -> None:
    registry = Registry()
    registry.apply_announce(announce(speed=float("nan"), slots=-3, load=Load(-5, -5, 0)), 0.0)
    record = registry.workers()[0]
    assert (record.speed, record.slots, record.load(0.0)) == (0.0, 0, 0)


# --- one name, two instances


def test_a_newer_instance_takes_the_name_over_with_nothing_of_the_former_one(registry: Registry) -> None:
    registry.note_sent("w", "request", 0.5)
    assert registry.apply_announce(announce("w", "i2", "n", first=True), 1.0) is Change.REPLACED
    record = registry.get("w")
    assert record is not None
    assert (record.instance, record.load(1.0)) == ("i2", 0)
    assert registry.models() == {"n"}


def test_an_older_instance_does_not_displace_a_newer_one() -> None:
    registry = Registry()
    registry.apply_announce(announce("w", "i2"), 0.0)
    assert registry.apply_announce(announce("w", "i1", "old", first=True), 1.0) is Change.IGNORED
    assert registry.apply_heartbeat(Heartbeat("w", "i1", Load(9, 9, 0), WorkerState.DRAINING), 1.0) is False
    assert registry.apply_goodbye(Goodbye("w", "i1")) is None
    assert registry.apply_obituary(Obituary("w", "i1"), 1.0) is False
    assert registry.apply_stranger(Stranger("w", "i1", "2.0"), 1.0) is Change.IGNORED
    record = registry.get("w")
    assert record is not None
    assert (record.instance, record.state, record.load(1.0), record.last_seen) == ("i2", RecordState.READY, 0, 0.0)
    assert registry.models() == {"m"}


def test_a_lost_worker_gives_its_name_to_a_successor_whose_clock_is_behind() -> None:
    registry = Registry()
    registry.apply_announce(announce("w", "i2"), 0.0)
    registry.apply_obituary(Obituary("w", "i2"), 1.0)
    assert registry.apply_announce(announce("w", "i1", first=True), 2.0) is Change.REPLACED
    assert candidates(registry) == ["w"]


def test_an_announce_without_an_instance_is_nobody() -> None:
    registry = Registry()
    assert registry.apply_announce(announce("w", ""), 0.0) is Change.IGNORED
    assert registry.workers() == []


# --- heartbeats


def test_a_heartbeat_of_an_unknown_worker_asks_for_an_introduction(registry: Registry) -> None:
    assert registry.apply_heartbeat(Heartbeat("stranger", "i9"), 1.0) is False
    assert registry.apply_heartbeat(Heartbeat("w", "i2"), 1.0) is False
    assert registry.apply_heartbeat(Heartbeat("w", "i1"), 1.0) is True


def test_a_draining_worker_is_listed_but_gets_nothing(registry: Registry) -> None:
    registry.apply_heartbeat(Heartbeat("w", "i1", state=WorkerState.DRAINING), 1.0)
    assert candidates(registry) == []
    assert registry.models() == {"m"}
    registry.apply_heartbeat(Heartbeat("w", "i1"), 2.0)
    assert candidates(registry) == ["w"]


def test_heartbeats_of_a_thousand_workers_derive_nothing_anew() -> None:
    registry = Registry()
    for number in range(1000):
        registry.apply_announce(announce(f"w{number}", f"i{number}", f"m{number % 7}"), 0.0)
    models = registry.models()
    for number in range(1000):
        assert registry.apply_heartbeat(Heartbeat(f"w{number}", f"i{number}", Load(1, 1, 1)), 5.0)
        registry.apply_announce(announce(f"w{number}", f"i{number}", f"m{number % 7}"), 6.0)
    assert registry.models() is models


# --- leaving, in order and not


def test_a_goodbye_drops_the_worker_at_once(registry: Registry) -> None:
    left = registry.apply_goodbye(Goodbye("w", "i1"))
    assert left is not None
    assert left.name == "w"
    assert registry.workers() == []
    assert registry.models() == frozenset()
    assert registry.apply_goodbye(Goodbye("w", "i1")) is None


def test_a_dead_worker_is_shown_as_lost_and_gets_nothing(registry: Registry) -> None:
    assert registry.apply_obituary(Obituary("w", "i1"), 3.0) is True
    assert state_of(registry) is RecordState.LOST
    assert candidates(registry) == []
    assert registry.models() == frozenset()
    assert registry.workers()[0].view(5.0).lost_for == 2.0


@pytest.mark.parametrize("state", list(WorkerState))
def test_an_announce_of_the_same_instance_revives_it(registry: Registry, state: WorkerState) -> None:
    registry.apply_obituary(Obituary("w", "i1"), 3.0)
    assert registry.apply_announce(announce(state=state), 3.1) is Change.UPDATED
    assert state_of(registry).value == state.value
    assert registry.workers()[0].view(4.0).lost_for is None


def test_a_later_heartbeat_of_the_same_instance_revives_it(registry: Registry) -> None:
    registry.apply_obituary(Obituary("w", "i1"), 3.0)
    assert registry.apply_heartbeat(Heartbeat("w", "i1"), 3.0 + REVIVAL_DELAY) is True
    assert candidates(registry) == ["w"]


def test_a_heartbeat_that_the_obituary_has_overtaken_revives_nobody(registry: Registry) -> None:
    registry.apply_obituary(Obituary("w", "i1"), 3.0)
    assert registry.apply_heartbeat(Heartbeat("w", "i1"), 3.01) is True
    assert state_of(registry) is RecordState.LOST


def test_a_second_obituary_does_not_make_it_younger(registry: Registry) -> None:
    registry.apply_obituary(Obituary("w", "i1"), 3.0)
    registry.apply_obituary(Obituary("w", "i1"), 4.0)
    assert registry.workers()[0].lost_at == 3.0


# --- other versions


def test_a_worker_of_another_version_is_shown_and_gets_nothing() -> None:
    registry = Registry()
    assert registry.apply_stranger(Stranger("w", "i1", "2.0"), 0.0) is Change.NEW
    assert registry.workers()[0].view(1.0).protocol == "2.0"
    assert state_of(registry) is RecordState.INCOMPATIBLE
    assert registry.models() == frozenset()
    assert registry.apply_heartbeat(Heartbeat("w", "i1"), 1.0) is False
    assert [record.name for record in registry.expire(91.0)] == ["w"]


def test_a_name_goes_over_to_another_version_and_back(registry: Registry) -> None:
    assert registry.apply_stranger(Stranger("w", "i2", "2.0"), 1.0) is Change.REPLACED
    assert candidates(registry) == []
    assert registry.apply_announce(announce("w", "i3"), 2.0) is Change.REPLACED
    assert candidates(registry) == ["w"]


# --- expiry


def test_a_worker_expires_after_more_than_ninety_seconds_of_silence(registry: Registry) -> None:
    registry.apply_heartbeat(Heartbeat("w", "i1"), 5.0)
    assert registry.expire(95.0) == []
    assert [record.name for record in registry.expire(95.1)] == ["w"]
    assert registry.workers() == []
    assert registry.models() == frozenset()


def test_nobody_who_is_overdue_is_a_candidate_even_before_the_check(registry: Registry) -> None:
    assert candidates(registry, now=90.0) == ["w"]
    assert candidates(registry, now=90.1) == []


def test_a_lost_worker_expires_by_its_last_sign_of_life(registry: Registry) -> None:
    registry.apply_obituary(Obituary("w", "i1"), 80.0)
    assert [record.name for record in registry.expire(91.0)] == ["w"]


def test_the_expiration_is_a_setting() -> None:
    registry = Registry(expiration=3.0)
    registry.apply_announce(announce(), 0.0)
    assert registry.expire(3.0) == []
    assert len(registry.expire(3.1)) == 1


def test_removing_tells_who_it_was(registry: Registry) -> None:
    removed = registry.remove("w")
    assert removed is not None
    assert removed.name == "w"
    assert registry.remove("w") is None
    assert registry.get("w") is None
