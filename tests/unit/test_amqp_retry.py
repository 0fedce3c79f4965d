"""The pauses between two tries to connect."""

from broker_wire.amqp.connection import MAX_DELAY, retry_delay


def test_the_pause_doubles_up_to_its_bound() -> None:
    pauses = [retry_delay(failures, lambda: 1.0) for failures in range(1, 12)]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == MAX_DELAY


def test_the_pause_is_drawn_from_the_whole_range() -> None:
    assert retry_delay(5, lambda: 0.0) == 0.0
    assert retry_delay(5, lambda: 0.5) == 0.8


def test_a_week_without_a_broker_does_not_overflow() -> None:
    assert retry_delay(1_000_000, lambda: 1.0) == MAX_DELAY
