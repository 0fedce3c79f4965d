"""Controllers that come and go, what is kept for them, and the clock that their grace time is measured by."""

import pytest

from workers_shim.controller_links import ControllerLinks
from workers_shim.outgoing import Outgoing
from workers_shim.pausing_clock import PausingClock
from workers_shim.tombstones import MAX_SECONDS, Tombstones


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def outgoing(controller: str = "c", stream: int = 1, attempt: int = 1) -> Outgoing:
    return Outgoing(controller, stream, attempt, 0, ready=lambda _: None, released=lambda _: None)


def keep(links: ControllerLinks, stream: Outgoing, size: int) -> None:
    stream.offer("x" * (size - 16))
    for sent in stream.take()[0]:
        stream.retention.confirm(sent)
    links.retained(stream)


def test_a_complete_answer_is_kept_for_the_grace_time(clock: Clock) -> None:
    links = ControllerLinks(clock, grace=30.0)
    stream = outgoing()
    links.add(stream)
    links.ended(stream)
    clock.now += 29.0
    assert links.sweep() == []
    assert links.find(("c", 1)) is stream
    clock.now += 2.0
    assert links.sweep() == []
    assert links.find(("c", 1)) is None
    assert links.kept == 0


def test_streams_of_a_controller_that_is_gone_wait_and_are_abandoned_after_the_grace_time(clock: Clock) -> None:
    links = ControllerLinks(clock, grace=30.0)
    mine, other = outgoing("gone"), outgoing("here")
    links.add(mine)
    links.add(other)
    links.lose(links.link("gone"))
    assert not mine.offer("a")
    assert other.offer("a")
    clock.now += 31.0
    assert links.sweep() == [mine]
    assert mine.cancelled
    assert not other.cancelled


def test_a_sign_of_life_ends_the_grace_time(clock: Clock) -> None:
    links = ControllerLinks(clock, grace=30.0)
    stream = outgoing()
    links.add(stream)
    links.lose(links.link("c"))
    links.spoke("c")
    clock.now += 31.0
    assert links.sweep() == []
    assert stream.offer("a")


def test_a_stream_of_a_controller_that_is_gone_is_held_from_its_start(clock: Clock) -> None:
    links = ControllerLinks(clock, grace=30.0)
    links.add(outgoing(stream=1))
    links.lose(links.link("c"))
    late = outgoing(stream=2)
    links.add(late)
    assert not late.offer("a")


def test_a_newer_attempt_takes_the_place_of_the_older_one(clock: Clock) -> None:
    links = ControllerLinks(clock, grace=30.0)
    older, newer = outgoing(attempt=1), outgoing(attempt=2)
    links.add(older)
    links.add(newer)
    assert older.cancelled
    assert links.find(("c", 1)) is newer
    links.drop(older)
    assert links.find(("c", 1)) is newer


def test_above_the_workers_bound_complete_answers_go_first_and_then_the_beginning_of_the_largest(clock: Clock) -> None:
    links = ControllerLinks(clock, grace=30.0, retained_bytes=1000)
    complete, large, small = outgoing(stream=1), outgoing(stream=2), outgoing(stream=3)
    for stream in (complete, large, small):
        links.add(stream)
    keep(links, complete, 300)
    links.ended(complete)
    for _ in range(4):
        keep(links, large, 200)
    assert links.find(("c", 1)) is None
    assert large.retention.size == 800
    keep(links, small, 300)
    assert large.retention.size == 600
    assert small.retention.size == 300


def test_a_controller_with_nothing_under_way_is_forgotten(clock: Clock) -> None:
    links = ControllerLinks(clock, grace=30.0)
    stream = outgoing()
    links.add(stream)
    links.lose(links.link("c"))
    links.drop(stream)
    assert not links.link("c").gone


def test_the_clock_stands_still_during_trouble_and_for_a_while_after_it(clock: Clock) -> None:
    watched = PausingClock(5.0, clock)
    begin = watched.now()
    watched.stop()
    clock.now += 100.0
    assert watched.now() == begin
    watched.go_on()
    clock.now += 4.0
    assert watched.now() == begin
    clock.now += 3.0
    assert watched.now() == begin + 2.0


def test_new_trouble_before_the_clock_goes_on_keeps_it_standing(clock: Clock) -> None:
    watched = PausingClock(5.0, clock)
    begin = watched.now()
    watched.stop()
    watched.go_on()
    clock.now += 3.0
    watched.stop()
    clock.now += 50.0
    assert watched.now() == begin
    watched.go_on()
    watched.go_on()
    clock.now += 6.0
    assert watched.now() == begin + 1.0


def test_a_cancelled_stream_is_remembered_until_its_deadline() -> None:
    tombstones = Tombstones()
    tombstones.bury(("c", 1), 60.0, now=0.0)
    assert tombstones.holds(("c", 1), now=59.0)
    assert not tombstones.holds(("c", 2), now=59.0)
    assert not tombstones.holds(("c", 1), now=61.0)
    tombstones.sweep(61.0)
    assert len(tombstones) == 0


@pytest.mark.parametrize("remaining", [float("inf"), float("nan"), -1.0, 1e300])
def test_a_remaining_time_that_makes_no_sense_is_bounded(remaining: float) -> None:
    tombstones = Tombstones()
    tombstones.bury(("c", 1), remaining, now=0.0)
    assert not tombstones.holds(("c", 1), now=MAX_SECONDS + 1)


def test_tombstones_are_bounded_and_the_oldest_goes_first() -> None:
    tombstones = Tombstones(bound=2)
    for stream in (1, 2, 1, 3):
        tombstones.bury(("c", stream), 60.0, now=0.0)
    assert len(tombstones) == 2
    assert not tombstones.holds(("c", 2), now=1.0)
    assert tombstones.holds(("c", 1), now=1.0)
