"""Dispatch by affinity: who is chosen, and when nobody is."""

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_controller.affinity import LOAD_FACTOR, Affinity, rendezvous
from broker_controller.controller import Controller
from broker_controller.session_key import SessionKey
from broker_controller.warm_caches import MAX_AGE, WarmCaches
from broker_controller.worker_record import WorkerRecord
from broker_wire.messages import PROTOCOL_VERSION, Announce, Load, ModelCard


def worker(name: str, load: int = 0, slots: int = 4) -> WorkerRecord:
    return WorkerRecord(name=name, instance=f"i-{name}", slots=slots, reported=Load(load))


def session(*beginnings: str) -> SessionKey:
    """The longest first."""
    digests = tuple(beginning.encode() for beginning in beginnings)
    return SessionKey(digests, digests[-1])


def chosen(affinity: Affinity, key: SessionKey | None, workers: list[WorkerRecord], now: float = 0.0) -> str | None:
    record = affinity.choose(workers, now, key)
    return None if record is None else record.name


FLEET = [f"w{number}" for number in range(10)]


# --- who is drawn


def test_two_controllers_draw_the_same_worker_in_whatever_order_they_know_them() -> None:
    workers = [worker(name) for name in FLEET]
    for number in range(50):
        key = session(f"s{number}")
        assert chosen(Affinity(WarmCaches()), key, workers) == chosen(Affinity(WarmCaches()), key, workers[::-1])


def test_sessions_are_drawn_to_all_workers_by_their_slots() -> None:
    workers = [worker("small", slots=2), worker("large", slots=6)]
    drawn = Counter(rendezvous(workers, b"%d" % number).name for number in range(4_000))
    assert drawn["large"] / drawn["small"] == pytest.approx(3, rel=0.15)


def test_a_worker_that_leaves_moves_its_own_sessions_alone() -> None:
    workers = [worker(name) for name in FLEET]
    digests = [b"%d" % number for number in range(500)]
    before = {digest: rendezvous(workers, digest).name for digest in digests}
    after = {digest: rendezvous(workers[1:], digest).name for digest in digests}
    moved = {digest for digest in digests if before[digest] != after[digest]}
    assert moved == {digest for digest in digests if before[digest] == "w0"}


# --- who served it last


def test_who_served_the_session_last_is_chosen_wherever_it_was_drawn_to() -> None:
    workers = [worker(name) for name in FLEET]
    for name in FLEET:
        caches = WarmCaches()
        caches.note(session("s"), name, 0.0)
        assert chosen(Affinity(caches), session("s"), workers) == name


def test_the_longest_known_beginning_counts() -> None:
    caches = WarmCaches()
    caches.note(session("turn 2 of a", "turn 1"), "w1", 0.0)
    caches.note(session("turn 2 of b", "turn 1"), "w2", 1.0)
    affinity, workers = Affinity(caches), [worker("w1"), worker("w2")]
    assert chosen(affinity, session("turn 3", "turn 2 of a", "turn 1"), workers) == "w1"
    assert chosen(affinity, session("another turn 2", "turn 1"), workers) == "w2"


def test_one_that_left_or_that_served_it_too_long_ago_is_not_chosen_for_that() -> None:
    caches = WarmCaches()
    others = [worker(name) for name in FLEET]
    drawn = rendezvous(others, b"s").name
    other = next(name for name in FLEET if name != drawn)
    caches.note(session("s"), other, 0.0)
    assert chosen(Affinity(caches), session("s"), others, now=MAX_AGE) == other
    assert chosen(Affinity(caches), session("s"), others, now=MAX_AGE + 1) == drawn
    assert chosen(Affinity(caches), session("s"), [record for record in others if record.name != other]) == drawn


def test_what_is_remembered_is_bounded_and_the_oldest_goes() -> None:
    caches = WarmCaches(capacity=3)
    for name in ("a", "b", "c", "a", "d"):
        caches.note(session(name), f"of {name}", 0.0)
    assert len(caches) == 3
    everybody = {f"of {name}": worker(f"of {name}") for name in "abcd"}
    known = [name for name in "abcd" if caches.find(session(name), everybody, 0.0)]
    assert known == ["a", "c", "d"]


# --- the bound


def test_over_its_share_a_warm_worker_is_passed_over() -> None:
    caches = WarmCaches()
    caches.note(session("s"), "warm", 0.0)
    idle = [worker(f"idle {number}") for number in range(9)]
    # Of ten workers each has a tenth; with two requests in all the bound is one, whatever the slots.
    assert chosen(Affinity(caches, 2.0), session("s"), [worker("warm"), *idle]) == "warm"
    assert chosen(Affinity(caches, 2.0), session("s"), [worker("warm", load=1), *idle]) is None
    busy = [worker(f"busy {number}", load=2) for number in range(9)]
    assert chosen(Affinity(caches, 2.0), session("s"), [worker("warm", load=3), *busy]) == "warm"
    assert chosen(Affinity(caches, 2.0), session("s"), [worker("warm", load=5), *busy]) is None


@given(
    loads=st.lists(st.integers(0, 8), min_size=1, max_size=12),
    slots=st.lists(st.integers(0, 8), min_size=12, max_size=12),
    key=st.binary(min_size=1, max_size=16),
)
def test_nobody_is_chosen_who_would_be_above_the_bound(loads: list[int], slots: list[int], key: bytes) -> None:
    workers = [worker(str(number), load, slots[number]) for number, load in enumerate(loads)]
    record = Affinity(WarmCaches()).choose(workers, 0.0, SessionKey((key,), key))
    if record is not None:
        share = max(1, record.slots) / sum(max(1, other.slots) for other in workers)
        assert record.load(0.0) < LOAD_FACTOR * (sum(loads) + 1) * share


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.lists(st.binary(min_size=1, max_size=4), max_size=30))
def test_an_idle_worker_always_has_room(loads: list[int], keys: list[bytes]) -> None:
    workers = [worker("idle"), *(worker(str(number), load) for number, load in enumerate(loads))]
    for key in keys:
        caches = WarmCaches()
        caches.note(SessionKey((key,), key), "idle", 0.0)
        assert Affinity(caches).choose(workers, 0.0, SessionKey((key,), key)) is workers[0]


def test_a_request_of_no_session_goes_to_the_models_queue() -> None:
    assert chosen(Affinity(WarmCaches()), None, [worker("w")]) is None
    assert chosen(Affinity(WarmCaches()), session("s"), []) is None


# --- the controller


def make_controller(*names: str, slots: int = 2) -> Controller:
    controller = Controller("affinity", clock=lambda: 0.0)
    for name in names:
        announce = Announce(name, f"i-{name}", PROTOCOL_VERSION, models=(ModelCard("m", ()),), slots=slots)
        controller.registry.apply_announce(announce, 0.0)
    return controller


def test_the_controller_learns_from_who_really_answered() -> None:
    controller = make_controller("a", "b")
    drawn = controller.choose("m", session("s"))
    assert drawn is not None
    other = {"a": "b", "b": "a"}[drawn]
    controller.note_served(session("s"), other)
    assert controller.choose("m", session("s")) == other
    controller.registry.remove(other)
    assert controller.choose("m", session("s")) == drawn


def test_a_full_worker_is_not_chosen_and_what_was_just_sent_counts() -> None:
    controller = make_controller("a")
    sent = []
    for number in range(3):
        sent.append(controller.choose("m", session("s")))
        controller.registry.note_sent("a", number, 0.0)
    assert sent == ["a", "a", None]


def test_the_class_alone_names_the_shortest_queue_when_it_is_asked_for_an_address() -> None:
    controller = make_controller("a", "b")
    addresses = Counter(chain.from_iterable([controller.get_worker_address("m")] for _ in range(4)))
    assert addresses == {"a": 2, "b": 2}
