"""The judge of the fault tests has to see what is wrong, or their tables mean nothing."""

from typing import Any

import pytest

from tests.faults.engine import Script, expected
from tests.faults.history import SLACK, Exchange, Verdict, judge
from tests.faults.report import rows_of, summary, table

PROMPT = "one two three four five six seven"
RIGHT = expected(PROMPT, 20)
SENTENCE = "request r1 for model 'm', on worker 'w1' after 3 chunks: the worker was lost"
CAUSE = {"code": "worker_lost", "message": f"{SENTENCE}. Send the request again."}
"""As in OpenAI's protocol."""


def caused(message: str, code: str | int = "worker_lost") -> dict[str, object]:
    return {"code": code, "message": message}


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
        (exchange(RIGHT[:20], errors=[CAUSE, CAUSE]), Verdict.DUPLICATED),
        (exchange(RIGHT, errors=[CAUSE]), Verdict.LOST),
        (exchange(RIGHT[:20], errors=[caused(f"{SENTENCE}. Send the request again.", 3)]), Verdict.ERROR),
        (exchange(RIGHT[:20], errors=[{"message": "it failed"}]), Verdict.LOST),
        (exchange(RIGHT[:20], errors=[caused(SENTENCE)]), Verdict.LOST),
        (exchange(RIGHT[:20], errors=[caused(f"{SENTENCE}. Send the request again.", "poison")]), Verdict.LOST),
        (exchange(RIGHT[:20], errors=[caused(CAUSE["message"].replace("r1", "r12"))]), Verdict.LOST),
        (exchange(RIGHT[:20], errors=[caused(CAUSE["message"].replace("for model 'm'", ""))]), Verdict.LOST),
        (exchange(RIGHT[:20], errors=[caused(CAUSE["message"].replace("after 3 chunks", ""))]), Verdict.LOST),
    ],
)
def test_each_way_to_be_wrong_is_seen(seen: Exchange, verdict: Verdict) -> None:
    assert judge(seen) is verdict


def test_a_pause_ends_with_the_first_token_of_the_next_worker() -> None:
    seen = exchange("", starts=[(0.5, "w1"), (2.1, "w2")])
    seen.chunks = [(1.0, "one"), (2.05, " two"), (2.5, " three")]
    assert seen.pause_after(2.0) == 0.5
    assert seen.pause_after(2.2) is None


def test_a_row_counts_every_verdict_and_measures_the_pause_of_moved_streams() -> None:
    moved = exchange("", starts=[(0.5, "w1"), (2.0, "w2")])
    moved.chunks = [(1.0, "one"), (2.0, " two"), (2.9, " three"), (3.0, " three")]
    (row,) = rows_of("a fault", [exchange(RIGHT), moved, exchange("", ended_at=None)], 1.9, "short")
    assert row["verdicts"] == {"complete": 1, "duplicated": 1, "hung": 1}
    assert row["next_token_ms"] == [1000.0, 1000.0]
    _, line = table([row])
    assert " ".join(line.split()) == "a fault mid-stream short 1 complete 1 1000, at most 1000 3 0 1 1"


def test_runs_are_summed_up_as_a_line_for_each_fault() -> None:
    runs = []
    for pause in (20.0, 30.0, 70.0):
        moved = exchange("", starts=[(0.5, "w1"), (2.0, "w2")])
        moved.chunks = [(1.0, "one"), (2.0 + pause, " two")]
        rows = [*rows_of("a fault", [exchange(RIGHT), exchange(RIGHT[:20], errors=[CAUSE]), moved], 1.9, "short")]
        runs.append(rows)
    *_, line = summary(runs)
    assert line.startswith("| a fault |  |  | 3 complete, 3 error (`worker_lost`), 3 lost |  |  |")
    assert line.endswith("| mid-stream 30,100 (at most 70,100) |")


def test_words_of_the_prompt_steer_the_engine() -> None:
    script = Script("r1 pause:3 block:4:60 raise-once:2 poison:7 quick fox")
    assert (script.pause, script.refuses) == (3.0, False)
    assert [script.block(index, first_attempt=True) for index in (3, 4, 5)] == [0.0, 60.0, 0.0]
    assert script.block(4, first_attempt=False) == 0.0
    assert script.raises(2, first_attempt=True)
    assert not script.raises(2, first_attempt=False)
    assert [index for index in range(9) if script.kills(index)] == [7, 8]
