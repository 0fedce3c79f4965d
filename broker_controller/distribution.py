"""How values are spread, in a few numbers. Pure; used by `tally` and `streams`."""

from bisect import bisect_left


class Distribution:
    """How many values were at most each bound, as Prometheus's histograms have it, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Not cumulative; the last is of those above all bounds."""
        self.sum = 0.0

    def add(self, value: float) -> None:
        """One value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
