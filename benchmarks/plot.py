"""Draws what `python -m benchmarks --json` has written: ratios to the engine without a proxy, a bar for each target.

    .venv-bench/bin/python -m benchmarks.plot docs/performance.json docs/performance.svg

It needs matplotlib, a part of the extra `bench`.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

PANELS = (
    ("50 streams × 100 tokens", "tokens_per_second", "tokens/s, 50 streams (more is better)"),
    ("200 streams × 100 tokens", "tokens_per_second", "tokens/s, 200 streams (more is better)"),
    ("one at a time", "ttft_p50", "idle TTFT (less is better)"),
    ("500 streams", "lateness_p99", "lateness p99, 500 paced streams (less is better)"),
)
"""How a scenario's title begins, which figure, and what it is called."""


def medians(document: dict[str, Any], begins: str, field: str) -> dict[str, float]:
    """Of each target the median of its rounds' ratios to the first one's."""
    [scenario] = [each for each in document["results"] if each["scenario"].startswith(begins)]
    rounds = {name: [outcome[field] for outcome in all_rounds] for name, all_rounds in scenario["outcomes"].items()}
    reference = next(iter(rounds.values()))
    return {
        name: statistics.median(ours / theirs for ours, theirs in zip(figures, reference, strict=True))
        for name, figures in rounds.items()
        if None not in figures and None not in reference
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    document = json.loads(arguments.source.read_text())
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "bench"
    figure, axes = pyplot.subplots(2, 2, figsize=(13, 7), layout="constrained")
    for axis, (begins, field, title) in zip(axes.flat, PANELS, strict=True):
        found = medians(document, begins, field)
        colors = ["tab:blue" if name.startswith("broker-controller") else "tab:gray" for name in found]
        bars = axis.barh(list(found), list(found.values()), color=colors)
        axis.bar_label(bars, fmt=" %.2g", fontsize=8)
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
    figure.suptitle("Ratios to the engine without a proxy")
    figure.savefig(arguments.target, metadata={"Date": None})


if __name__ == "__main__":
    main()
