"""From many measurements to the few numbers of a table: percentiles, medians with their range, ratios. Pure."""

import math
import statistics
from collections.abc import Sequence

import msgspec


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; NaN for no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    rank = math.ceil(len(ordered) * percent / 100)
    return ordered[max(rank, 1) - 1]


class Spread(msgspec.Struct, frozen=True):
    """The median of several rounds and the range they lie in."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """NaN in all three for no values."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(statistics.median(known), min(known), max(known))


def ratios(ours: Sequence[float], reference: Sequence[float]) -> Spread:
    """Round by round, because those of one round see the same noise of the machine more than others."""
    return spread([a / b for a, b in zip(ours, reference, strict=True) if b])


def show(value: float) -> str:
    """Three significant digits, thousands apart, and a dash for what was not measured."""
    if math.isnan(value):
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def show_spread(figure: Spread) -> str:
    if math.isnan(figure.median):
        return "–"
    return f"{show(figure.median)} ({show(figure.low)}–{show(figure.high)})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal too; all but the first are set to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *others])} |"

    rule = [("-" * widths[0]), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])
