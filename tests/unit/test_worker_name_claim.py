"""Two instances, one name: who leaves."""

import pytest

from broker_wire.messages import Announce
from workers_shim.departure import SAME_TIME, must_yield


@pytest.mark.parametrize(
    ("mine", "claimed_at", "other", "leaves"),
    [
        ("a", 0.0, "b", True),
        ("b", 0.0, "a", True),
        ("a", 100.0, "b", True),
        ("b", 100.0, "a", False),
        ("a", None, "b", True),
        ("b", None, "a", False),
        ("a", 0.0, "a", False),
    ],
    ids=[
        "it was there for long",
        "it was there for long, and a clock had gone back meanwhile",
        "both came at once, and the other is greater",
        "both came at once, and this one is greater",
        "it has not said its name yet, and the other is greater",
        "it has not said its name yet, and is greater",
        "it hears itself",
    ],
)
def test_a_name_belongs_to_whoever_came_later_or_at_once_to_the_greater_instance(
    mine: str, claimed_at: float | None, other: str, leaves: bool
) -> None:
    announce = Announce("w", other, first=True)
    assert must_yield(mine, claimed_at, announce, now=100.0 + SAME_TIME / 2) is leaves
