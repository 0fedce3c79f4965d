"""Who waits, as the status shows it, and when to come back for whoever was not served."""

import pytest

from broker_controller.decisions import Limits, Place
from broker_controller.lifecycle import RequestLife
from broker_controller.streams import GenerationStream
from broker_controller.waiting_line import MAX_SHOWN, WaitingLine, WaitingRequest, shown
from broker_wire.messages import Started

NOW = 1000.0


def a_stream(number: int, model: str = "m", place: Place = Place.MODEL) -> GenerationStream:
    life = RequestLife(
        controller="c",
        stream=number,
        request_id=f"r{number}",
        model=model,
        place=place,
        target="",
        deadline=NOW + 60,
        now=NOW,
        limits=Limits(),
    )
    return GenerationStream(life, on_cancel=lambda _: None, on_flow=lambda *_: None)


def running(number: int) -> GenerationStream:
    stream = a_stream(number)
    stream.life.on_started(Started(number, 1, "w1", "i1"), NOW + 3, NOW + 3)
    return stream


def test_those_that_wait_are_shown_with_their_places_and_others_are_not() -> None:
    streams = [running(1), a_stream(2), a_stream(3, "other"), a_stream(4), a_stream(5, place=Place.PINNED)]
    line = WaitingLine(lambda: {"m": 4, "other": 1}, 10)
    for at in (0.0, 10.0, 20.0, 30.0):
        line.note_finished("m", NOW + at)
    line.look_ahead(streams, NOW + 30)
    seconds = line.forecast("m", NOW + 30)
    assert seconds is not None
    second, other, fourth, pinned = shown(streams)
    assert (second.request_id, second.place, second.of) == ("r2", 2, 4)
    assert second.forecast_seconds == pytest.approx(seconds / 2)
    assert other == WaitingRequest("r3", "other", 1, 1, None)
    assert (fourth.place, fourth.of) == (4, 4)
    assert pinned == WaitingRequest("r5", "m", None, None, None)


def test_the_list_has_an_end() -> None:
    assert len(shown([a_stream(number) for number in range(MAX_SHOWN + 5)])) == MAX_SHOWN


def test_whose_time_is_up_is_told_to_wait_as_long_as_it_waited_in_the_queue() -> None:
    line = WaitingLine(lambda: {"m": 4}, 10)
    assert line.retry_after_deadline(a_stream(1).life, NOW + 40) == 40.0
    assert line.retry_after_deadline(running(2).life, NOW + 40) == 3.0
