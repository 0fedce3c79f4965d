"""Workers of the old kind: registered over HTTP, bridged or not."""

import pytest

from broker_controller.registration import MAX_QUEUE_LENGTH, WorkerStatus
from broker_controller.registry import Change, Registry
from broker_controller.worker_record import RecordState
from broker_wire.codec import Stranger
from broker_wire.messages import Ability, Announce, Goodbye, Heartbeat, Load, ModelCard, Obituary

URL = "http://10.0.0.7:40000"
STATUS = WorkerStatus(("m",), 1.0, 0)


def bridge(instance: str = "i1", running: int = 0) -> Announce:
    return Announce(URL, instance, models=(ModelCard("m"),), slots=5, load=Load(running), bridged=True)


def candidates(registry: Registry, now: float = 0.0) -> list[str]:
    return [record.name for record in registry.workers_for("m", now)]


@pytest.fixture
def registry() -> Registry:
    """One HTTP worker with a heartbeat, registered at 0 s, with model m."""
    registry = Registry()
    assert registry.register_http(URL, True, STATUS, False, 0.0) is Change.NEW
    return registry


def test_a_registered_worker_is_a_candidate_with_its_url_as_address(registry: Registry) -> None:
    assert candidates(registry) == [URL]
    record = registry.workers()[0]
    assert (record.address, record.bridged, record.instance) == (URL, False, "")


def test_a_registration_again_takes_the_new_status(registry: Registry) -> None:
    assert registry.register_http(URL, False, WorkerStatus(("n",), 3.0, 2), True, 1.0) is Change.UPDATED
    assert registry.models() == registry.multimodal_models() == {"n"}
    record = registry.workers()[0]
    assert (record.speed, record.load(1.0), record.check_heart_beat) == (3.0, 2, False)


def test_a_heartbeat_keeps_it_and_carries_its_queue_length(registry: Registry) -> None:
    assert registry.receive_heart_beat(URL, 4, 60.0) is True
    assert registry.workers()[0].load(60.0) == 4
    assert registry.expire(150.0) == []
    assert len(registry.expire(150.1)) == 1
    assert registry.receive_heart_beat(URL, 0, 151.0) is False


def test_without_a_heartbeat_check_it_never_expires() -> None:
    registry = Registry()
    registry.register_http(URL, False, STATUS, False, 0.0)
    assert registry.expire(1e9) == []
    assert candidates(registry, 1e9) == [URL]


def test_a_worker_of_the_broker_keeps_its_name() -> None:
    registry = Registry()
    registry.apply_announce(Announce("w", "i1", models=(ModelCard("m"),)), 0.0)
    assert registry.register_http("w", False, WorkerStatus(("other",), 1.0, 0), False, 0.0) is Change.IGNORED
    assert registry.receive_heart_beat("w", 3, 0.0) is False
    assert registry.models() == {"m"}
    assert len(registry.expire(91.0)) == 1


def test_a_bridge_makes_it_a_worker_of_the_broker(registry: Registry) -> None:
    assert registry.apply_announce(bridge(), 1.0) is Change.UPDATED
    record = registry.workers()[0]
    assert (record.instance, record.bridged, record.slots, record.address) == ("i1", True, 5, URL)
    assert registry.apply_heartbeat(Heartbeat(URL, "i1", Load(2, 1, 2)), 2.0) is True
    assert record.load(2.0) == 3


def test_the_larger_of_what_the_bridge_and_the_worker_report_is_its_load(registry: Registry) -> None:
    registry.apply_announce(bridge(running=2), 1.0)
    registry.receive_heart_beat(URL, 7, 1.0)
    assert registry.workers()[0].load(1.0) == 7
    registry.apply_heartbeat(Heartbeat(URL, "i1", Load(5, 4, 0)), 2.0)
    assert registry.workers()[0].load(2.0) == 9


def test_it_stays_registered_when_its_bridge_says_goodbye_or_dies(registry: Registry) -> None:
    registry.apply_announce(bridge(), 1.0)
    assert registry.apply_goodbye(Goodbye(URL, "i1")) is None
    assert candidates(registry) == [URL]
    assert registry.apply_announce(bridge("i2", running=4), 2.0) is Change.UPDATED
    assert registry.apply_obituary(Obituary(URL, "i2"), 3.0) is True
    record = registry.workers()[0]
    assert (record.state, record.instance, record.bridged, record.load(3.0)) == (RecordState.READY, "", False, 0)


def test_another_controller_takes_the_bridge_over(registry: Registry) -> None:
    registry.apply_announce(bridge("i1"), 1.0)
    assert registry.apply_announce(bridge("i2"), 2.0) is Change.REPLACED
    assert registry.receive_heart_beat(URL, 1, 3.0) is True
    assert registry.apply_obituary(Obituary(URL, "i1"), 4.0) is False
    assert registry.workers()[0].instance == "i2"


def test_a_live_bridge_does_not_keep_a_silent_worker(registry: Registry) -> None:
    registry.apply_announce(bridge(), 1.0)
    registry.apply_heartbeat(Heartbeat(URL, "i1"), 95.0)
    assert [record.name for record in registry.expire(95.0)] == [URL]


def test_a_silent_bridge_is_given_up_and_its_worker_is_not(registry: Registry) -> None:
    registry.apply_announce(bridge(), 1.0)
    registry.receive_heart_beat(URL, 0, 90.0)
    assert registry.expire(95.0) == []
    record = registry.workers()[0]
    assert (record.instance, record.bridged) == ("", False)


def test_a_worker_known_only_by_its_bridge_is_asked_to_register(registry: Registry) -> None:
    late = Registry()
    late.apply_announce(bridge(), 0.0)
    assert candidates(late) == [URL]
    assert late.workers()[0].address == URL
    assert late.receive_heart_beat(URL, 0, 1.0) is False
    assert late.register_http(URL, True, STATUS, False, 1.0) is Change.UPDATED
    assert late.workers()[0].instance == "i1"


def test_registering_again_ends_the_loss_of_a_bridge_that_was_all_that_was_known() -> None:
    registry = Registry()
    registry.apply_announce(bridge(), 0.0)
    registry.apply_obituary(Obituary(URL, "i1"), 1.0)
    assert candidates(registry) == []
    registry.register_http(URL, True, STATUS, False, 2.0)
    assert candidates(registry) == [URL]


def test_a_registration_leaves_what_the_bridge_says_of_the_same_models(registry: Registry) -> None:
    told = ModelCard("m", answers=("count_tokens",))
    registry.apply_announce(Announce(URL, "i1", models=(told,), bridged=True), 0.0)
    registry.register_http(URL, True, STATUS, False, 1.0)
    assert registry.workers()[0].models == (told,)
    registry.register_http(URL, True, WorkerStatus(("n",), 1.0, 0), False, 2.0)
    assert registry.models() == {"n"}


def test_a_bridge_of_another_version_does_not_hide_the_worker(registry: Registry) -> None:
    assert registry.apply_stranger(Stranger(URL, "i1", "2.0"), 1.0) is Change.IGNORED
    assert candidates(registry) == [URL]


def test_a_worker_of_the_broker_takes_the_name_from_a_registration() -> None:
    registry = Registry()
    registry.register_http("w", False, STATUS, False, 0.0)
    registry.apply_announce(Announce("w", "i1", models=(ModelCard("m"),)), 0.0)
    assert len(registry.expire(91.0)) == 1


# --- what it says of itself


def test_a_status_is_read_as_the_old_workers_write_it() -> None:
    status = WorkerStatus.from_answer({"model_names": ["a", "b", "a"], "speed": 1, "queue_length": 3, "more": None})
    assert status == WorkerStatus(("a", "b"), 1.0, 3)
    assert status.cards(multimodal=True)[0].abilities == (Ability.CHAT, Ability.COMPLETION, Ability.VISION)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "text",
        [],
        {},
        {"model_names": ["m"], "speed": 1},
        {"model_names": "m", "speed": 1, "queue_length": 0},
        {"model_names": [1], "speed": 1, "queue_length": 0},
        {"model_names": [""], "speed": 1, "queue_length": 0},
        {"model_names": ["a\nb"], "speed": 1, "queue_length": 0},
        {"model_names": ["m"], "speed": "1", "queue_length": 0},
        {"model_names": ["m"], "speed": True, "queue_length": 0},
        {"model_names": ["m"], "speed": float("nan"), "queue_length": 0},
        {"model_names": ["m"], "speed": 1, "queue_length": None},
    ],
)
def test_a_malformed_status_is_none(answer: object) -> None:
    assert WorkerStatus.from_answer(answer) is None


@pytest.mark.parametrize("huge", [10**400, float("inf")])
def test_nonsense_numbers_are_bounded(huge: float) -> None:
    status = WorkerStatus.from_answer({"model_names": [], "speed": huge, "queue_length": huge})
    assert status is not None
    assert (status.speed, status.queue_length) == (1e9, MAX_QUEUE_LENGTH)
    status = WorkerStatus.from_answer({"model_names": [], "speed": -1, "queue_length": -1})
    assert status is not None
    assert (status.speed, status.queue_length) == (0.0, 0)
