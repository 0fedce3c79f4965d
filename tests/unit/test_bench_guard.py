"""The guard of the benchmark: what is worse by 15 % or more fails, whichever way is better."""

from benchmarks.guard import compare

BETTER = {"speed": True, "time": False, "new": True}


def test_what_has_become_worse_is_named() -> None:
    text, worse = compare({"speed": 0.85, "time": 2.0}, {"speed": 1.0, "time": 1.7}, BETTER)
    assert worse == ["speed", "time"]
    assert text.count("worse") == 2


def test_noise_and_what_has_become_better_pass() -> None:
    _, worse = compare({"speed": 0.86, "time": 0.5}, {"speed": 1.0, "time": 1.0}, BETTER)
    assert worse == []


def test_what_was_never_measured_is_new() -> None:
    text, worse = compare({"new": 1.0}, {}, BETTER)
    assert worse == []
    assert "| new" in text.replace("  ", "")
