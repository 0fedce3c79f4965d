"""The bytes that a controller holds, counted once each, and given back whatever happens."""

import pytest

from broker_controller.decisions import Limits, Place
from broker_controller.errors import OverloadedError
from broker_controller.inflight_bytes import SMALL_BODY, InflightBytes
from broker_controller.lifecycle import RequestLife
from broker_controller.streams import GenerationStream


def new_stream() -> GenerationStream:
    life = RequestLife(
        controller="c",
        stream=7,
        request_id="r",
        model="m",
        place=Place.MODEL,
        target="",
        deadline=60.0,
        now=0.0,
        limits=Limits(),
    )
    return GenerationStream(life, on_cancel=lambda _: None, on_flow=lambda *_: None)


def test_a_body_counts_while_it_comes_in_and_no_longer_when_its_client_breaks_off() -> None:
    inflight = InflightBytes(10)

    def break_off() -> None:
        with inflight.receiving() as count:
            count(3)
            count(4)
            assert inflight.total == 7
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        break_off()
    assert inflight.total == 0


def test_a_small_body_is_read_however_much_is_held_and_a_large_one_is_not() -> None:
    inflight = InflightBytes(10)
    inflight.add(10)
    with inflight.receiving() as count:
        count(SMALL_BODY)
        with pytest.raises(OverloadedError, match="may hold 10"):
            count(1)
    assert inflight.total == 10


def test_the_bound_may_be_reached_and_not_passed() -> None:
    inflight = InflightBytes(10)
    inflight.add(4)
    inflight.refuse_if_full(6)
    with pytest.raises(OverloadedError, match="holds 4 bytes"):
        inflight.refuse_if_full(7)


def test_of_a_request_that_is_over_only_what_its_client_has_not_read_counts() -> None:
    inflight, stream = InflightBytes(100), new_stream()
    inflight.on_taken(stream, 20)
    stream.feed(["abcde"], 5)
    inflight.add(5)
    assert inflight.total == 25
    inflight.on_closed(stream)
    assert inflight.total == 5
    stream.take()
    inflight.look_at_readers()
    assert inflight.total == 0
