"""What is drawn of a benchmark's results."""

from benchmarks.plot import medians


def test_each_target_has_the_median_of_its_ratios_round_by_round() -> None:
    outcomes = {
        "no proxy": [{"ttft_p50": 1.0}, {"ttft_p50": 2.0}, {"ttft_p50": 4.0}],
        "ours": [{"ttft_p50": 3.0}, {"ttft_p50": 4.0}, {"ttft_p50": 4.0}],
        "not measured": [{"ttft_p50": None}] * 3,
    }
    document = {"results": [{"scenario": "one at a time: x", "outcomes": outcomes}, {"scenario": "50", "outcomes": {}}]}
    assert medians(document, "one at a time", "ttft_p50") == {"no proxy": 1.0, "ours": 2.0}
