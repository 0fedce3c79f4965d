"""Percentiles, medians and the table of the benchmarks."""

import math

from benchmarks.figures import percentile, ratios, show, show_spread, spread, table


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile([7.0], 99)) == (50.0, 99.0, 7.0)


def test_nothing_measured_is_shown_as_a_dash() -> None:
    assert math.isnan(percentile([], 50))
    assert show_spread(spread([math.nan])) == "–"


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]).median == 2.0


def test_numbers_have_three_digits_that_matter() -> None:
    assert [show(value) for value in (0.123, 12.34, 123.4, 123456.7)] == ["0.12", "12.3", "123", "123,457"]


def test_the_columns_of_the_table_line_up() -> None:
    lines = table(["what", "ms"], [["idle", "1.0"], ["loaded", "12.0"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ------ | ---: |"
