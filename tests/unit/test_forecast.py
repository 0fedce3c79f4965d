"""What follows from how fast requests finish."""

import pytest

from broker_controller.forecast import MEMORY, UNKNOWN_RETRY, FinishRate, Forecasts, Outlook


def finished(rate: float, seconds: int, model: str = "m") -> Forecasts:
    forecasts = Forecasts()
    for number in range(int(rate * seconds) + 1):
        forecasts.note_finished(model, number / rate)
    return forecasts


@pytest.mark.parametrize("rate", [0.2, 1.0, 50.0])
@pytest.mark.parametrize("seconds", [20, 300])
def test_an_even_flow_is_measured_as_it_is(rate: float, seconds: int) -> None:
    measured = FinishRate()
    for number in range(int(rate * seconds) + 1):
        measured.note(number / rate)
    assert measured.per_second(seconds) == pytest.approx(rate, rel=0.15)


def test_the_latest_count_most_and_what_is_long_ago_says_nothing() -> None:
    measured = FinishRate()
    assert measured.per_second(0.0) is None
    for number in range(100):
        measured.note(number * 0.1)
    fast = measured.per_second(10.0)
    slower = measured.per_second(10.0 + MEMORY)
    assert fast is not None
    assert slower is not None
    assert slower < fast / 2
    assert measured.per_second(10.0 + 11 * MEMORY) is None


def test_one_finished_request_is_no_rate() -> None:
    measured = FinishRate()
    measured.note(5.0)
    assert measured.per_second(5.0) is None
    assert measured.per_second(6.0) is None


def test_a_full_queue_is_said_to_have_a_place_when_the_rate_says_so() -> None:
    assert finished(0.5, 300).retry_after("m", 10, 10, 300) == pytest.approx(2.0, rel=0.1)
    assert finished(0.5, 300).retry_after("m", 14, 10, 300) == pytest.approx(10.0, rel=0.1)


def test_the_time_to_retry_has_bounds_and_a_value_when_nothing_is_known() -> None:
    assert finished(50, 20).retry_after("m", 10, 10, 20) == 1.0
    assert finished(0.2, 300).retry_after("m", 500, 10, 300) == 120.0
    assert finished(1, 20).retry_after("another", 10, 10, 20) == UNKNOWN_RETRY


def test_whose_time_is_up_comes_back_when_the_queue_is_served_or_after_as_long_as_it_waited() -> None:
    assert finished(0.5, 300).after_deadline("m", 20, 600.0, 300) == pytest.approx(40.0, rel=0.1)
    assert finished(0.5, 300).after_deadline("m", 0, 600.0, 300) == 1.0
    assert Forecasts().after_deadline("m", 20, 40.0, 0.0) == 40.0
    assert Forecasts().after_deadline("m", 20, 600.0, 0.0) == 120.0


def test_a_place_among_ours_is_stretched_to_the_whole_queue() -> None:
    forecasts = Forecasts()
    assert forecasts.outlook("m", 2, 4, 12, 0.0) == Outlook(6, 12, None)
    assert forecasts.outlook("m", 3, 4, 0, 0.0) == Outlook(3, 4, None)
    seconds = finished(1, 300).outlook("m", 1, 1, 8, 300).seconds
    assert seconds == pytest.approx(8.0, rel=0.1)
