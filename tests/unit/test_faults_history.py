"""The judge of the fault tests has to see what is wrong, or their tables mean nothing."""

from typing import Any

import pytest

from tests.faults.engine import expected
from tests.faults.history import SLACK, Exchange, Verdict, judge
from tests.faults.report import rows_of, table

PROMPT = "one two three four five six seven"
RIGHT = expected(PROMPT, 20)
CAUSE = {"code": "worker_lost", "type": "server_error", "message": "the worker was lost"}


def exchange(text: str, **fields: Any) -> Exchange:
    whole = {"finished": True, "ended_at": 9.0, "deadline": 60.0} | fields
    chunks = [(2.0, text)] if text else []
    return Exchange(id="r1", group="mid-stream", prompt=PROMPT, tokens=20, sent_at=1.0, chunks=chunks, **whole)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (exchange(RIGHT), Verdict.COMPLETE),
        (exchange(RIGHT[:-1]), Verdict.LOST),
        (exchange(RIGHT[:20] + RIGHT[24:]), Verdict.LOST),
        (exchange(RIGHT, finished=False), Verdict.LOST),
        (exchange(RIGHT + " seven"), Verdict.DUPLICATED),
        (exchange(RIGHT[:24] + RIGHT[4:30]), Verdict.DUPLICATED),
        (exchange(RIGHT, ended_at=None), Verdict.HUNG),
        (exchange(RIGHT, ended_at=60.0 + SLACK + 1.0), Verdict.HUNG),
        (exchange(RIGHT[:20], errors=[CAUSE]), Verdict.ERROR),
        (exchange("", errors=[CAUSE]), Verdict.ERROR),
        (exchange(RIGHT[:20] + "xy", errors=[CAUSE]), Verdict.LOST),
        (exchange(RIGHT[:20], errors=[CAUSE, CAUSE]), Verdict.LOST),
        (exchange(RIGHT[:20], errors=[{"message": "it failed"}]), Verdict.LOST),
    ],
)
def test_each_way_to_be_wrong_is_seen(seen: Exchange, verdict: Verdict) -> None:
    assert judge(seen) is verdict


def test_a_row_counts_every_verdict_and_measures_the_pause_of_moved_streams() -> None:
    moved = exchange("", comments=["moved attempts=2"])
    moved.chunks = [(1.0, "one"), (2.0, " two"), (2.1, " three"), (2.9, " four"), (3.0, " four")]
    (row,) = rows_of("a fault", [exchange(RIGHT), moved, exchange("", ended_at=None)], fault_at=2.05)
    assert row["verdicts"] == {"complete": 1, "duplicated": 1, "hung": 1}
    assert row["next_token_ms"] == [850.0, 850.0]
    _, line = table([row])
    assert " ".join(line.split()) == "a fault mid-stream 1 complete 1 850, at most 850 3 0 1 1"
