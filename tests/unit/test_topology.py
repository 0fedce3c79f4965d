"""Names that AMQP can carry, and queues that say what happens when they overflow, age or lose their worker."""

import pytest

from broker_wire.errors import NameRefusedError
from broker_wire.topology import (
    MAX_NAME_BYTES,
    Queue,
    QueueBounds,
    QueueType,
    Topology,
    check_model_name,
    check_worker_name,
)


@pytest.mark.parametrize("name", ["w", "host-1234-ab.c_d", "x" * 128, "http://10.0.0.1:21002", "https://h/path"])
def test_worker_names_and_urls_are_taken(name: str) -> None:
    assert check_worker_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 129, "a b", "ü", "a/b", "http://", "ftp://h", "http://h?x=1", "http://h/" + "x" * 200, "a\n"]
)
def test_other_worker_names_are_refused(name: str) -> None:
    with pytest.raises(NameRefusedError):
        check_worker_name(name)


@pytest.mark.parametrize("name", ["m", "org/model:tag", "模型", "with space", "x" * 200, "model.resume", "*.#"])
def test_any_text_is_a_models_name(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 201, "ü" * 101, "a\x00b", "a\nb", "\ud800"])
def test_what_amqp_cannot_carry_is_no_models_name(name: str) -> None:
    with pytest.raises(NameRefusedError):
        check_model_name(name)


@pytest.mark.parametrize("prefix", ["", "x" * 33, "a b", "a/b"])
def test_a_prefix_has_to_be_short_and_plain(prefix: str) -> None:
    with pytest.raises(NameRefusedError):
        Topology(prefix)


def test_the_longest_names_fit() -> None:
    topology = Topology("p" * 32)
    model, worker = "ü" * 100, "https://" + "w" * 192
    check_worker_name(worker)
    queues = [
        topology.model_queue(model),
        topology.resume_queue(model),
        topology.own_queue(worker, model),
        topology.pinned_queue(worker),
        topology.will_queue(worker, "i" * 40),
        topology.bridge_queue(worker),
    ]
    for queue in queues:
        assert len(queue.name.encode()) <= MAX_NAME_BYTES
        assert len(queue.routing_key.encode()) <= MAX_NAME_BYTES
    assert len(topology.fleet_key("upstream_registration", worker).encode()) <= MAX_NAME_BYTES


def test_no_two_queues_share_a_name_whatever_the_models_are_called() -> None:
    topology = Topology()
    names = [
        queue.name
        for model in ("x", "x.resume", "resume.x", "model.x")
        for queue in (topology.model_queue(model), topology.resume_queue(model), topology.own_queue("w", model))
    ]
    assert len(set(names)) == len(names)


def test_a_full_model_queue_refuses_the_newest() -> None:
    arguments = Topology(bounds=QueueBounds(max_length=5)).model_queue("m").arguments
    assert arguments["x-max-length"] == 5
    assert arguments["x-overflow"] == "reject-publish"


def test_a_stream_that_moves_never_meets_a_bound() -> None:
    assert not {"x-max-length", "x-max-length-bytes"} & Topology().resume_queue("m").arguments.keys()


def test_an_own_queue_falls_back_to_its_models() -> None:
    topology = Topology()
    arguments = topology.own_queue("w", "m").arguments
    assert arguments["x-dead-letter-exchange"] == topology.requests
    assert arguments["x-dead-letter-routing-key"] == topology.model_queue("m").routing_key
    assert arguments["x-message-ttl"] == 0


def test_a_will_reaches_every_controller() -> None:
    topology = Topology()
    arguments = topology.will_queue("w", "i").arguments
    assert arguments["x-dead-letter-exchange"] == topology.fleet
    assert arguments["x-dead-letter-routing-key"] == "obituary.w"


def test_replicated_queues_are_a_setting_and_count_no_deliveries() -> None:
    arguments = Topology(bounds=QueueBounds(type=QueueType.QUORUM)).model_queue("m").arguments
    assert arguments["x-queue-type"] == "quorum"
    assert arguments["x-delivery-limit"] == -1
    assert "x-queue-type" not in Topology().model_queue("m").arguments


A_DAY, A_MINUTE, FIVE_MINUTES = 86_400_000, 60_000, 300_000
"""Milliseconds, as the broker takes them."""


@pytest.mark.parametrize(
    ("queue", "arguments", "exclusive"),
    [
        (
            Topology().model_queue("m"),
            {
                "x-max-length": 2_000,
                "x-max-length-bytes": 268_435_456,
                "x-overflow": "reject-publish",
                "x-expires": FIVE_MINUTES,
                "x-consumer-timeout": A_DAY,
            },
            False,
        ),
        (Topology().resume_queue("m"), {"x-expires": FIVE_MINUTES, "x-consumer-timeout": A_DAY}, False),
        (
            Topology().own_queue("w", "m"),
            {
                "x-message-ttl": 0,
                "x-dead-letter-exchange": "bc.requests",
                "x-dead-letter-routing-key": "model.m",
                "x-expires": A_MINUTE,
                "x-consumer-timeout": A_DAY,
            },
            False,
        ),
        (Topology().pinned_queue("w"), {"x-expires": A_MINUTE, "x-consumer-timeout": A_DAY}, False),
        (
            Topology().will_queue("w", "i"),
            {
                "x-message-ttl": 0,
                "x-dead-letter-exchange": "bc.fleet",
                "x-dead-letter-routing-key": "obituary.w",
                "x-expires": A_MINUTE,
            },
            False,
        ),
        (
            Topology().reply_queue("c"),
            {"x-max-length": 50_000, "x-overflow": "drop-head", "x-expires": A_MINUTE},
            True,
        ),
        (Topology().controller_fleet_queue(), {"x-max-length": 50_000}, True),
        (Topology().worker_control_queue("i"), {"x-max-length": 20_000}, True),
        (Topology().bridge_queue("http://h:1"), {"x-max-length": 1}, True),
    ],
    ids=["model", "resume", "own", "pinned", "will", "replies", "fleet", "control", "bridge"],
)
def test_what_each_queue_is_declared_with(queue: Queue, arguments: dict[str, object], exclusive: bool) -> None:
    assert queue.arguments == arguments
    assert queue.exclusive is exclusive
