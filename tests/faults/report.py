"""The matrix as a table: a row for each fault and state, printed at the end of the run and kept as JSON.

`python -m tests.faults.report RUN.json …` sums runs up as the table of docs/reliability.md, a row for each fault.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.faults.history import Exchange, Verdict, judge

Row = dict[str, Any]
"""Plain JSON: pytest-xdist carries it from process to process."""
HEADINGS = (
    "fault",
    "state",
    "settings",
    "outcome",
    "moved",
    "next token, ms",
    "requests",
    "lost",
    "duplicated",
    "hung",
)


def rows_of(fault: str, exchanges: Iterable[Exchange], fault_at: float, settings: str) -> list[Row]:
    """A row for each state that requests were in."""
    groups: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        groups.setdefault(exchange.group, []).append(exchange)
    return [{"settings": settings} | _row(fault, state, members, fault_at) for state, members in groups.items()]


def _row(fault: str, state: str, members: Sequence[Exchange], fault_at: float) -> Row:
    verdicts = Counter(str(judge(exchange)) for exchange in members)
    codes = Counter(str(error.get("code")) for exchange in members for error in exchange.errors)
    pauses = [pause for each in members if (pause := each.pause_after(fault_at)) is not None]
    return {
        "fault": fault,
        "state": state,
        "verdicts": dict(verdicts),
        "codes": dict(codes),
        "moved": sum(has_moved(exchange) for exchange in members),
        "next_token_ms": [round(1000 * median(pauses), 1), round(1000 * max(pauses), 1)] if pauses else None,
        "requests": len(members),
    }


def has_moved(exchange: Exchange) -> bool:
    """More than one engine began with it."""
    return len(exchange.starts) > 1


def write(rows: Sequence[Row], path: str) -> None:
    """Keep them."""
    Path(path).write_text(json.dumps(rows, indent=1) + "\n")


def table(rows: Sequence[Row]) -> list[str]:
    """Aligned lines, the heading first."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _cells(row: Row) -> tuple[str, ...]:
    verdicts, codes, pauses = row["verdicts"], row["codes"], row["next_token_ms"]
    outcome = [f"{verdicts[kind]} {kind}" for kind in (Verdict.COMPLETE, Verdict.ERROR) if verdicts.get(kind)]
    causes = f" ({', '.join(codes)})" if codes else ""
    bad = (str(verdicts.get(kind, 0)) for kind in (Verdict.LOST, Verdict.DUPLICATED, Verdict.HUNG))
    next_token = f"{pauses[0]:.0f}, at most {pauses[1]:.0f}" if pauses else "-"
    return (row["fault"], row["state"], row["settings"], ", ".join(outcome) + causes, str(row["moved"]), next_token,
            str(row["requests"]), *bad)  # fmt: skip


# --- for the docs

STATES = ("queued", "starting", "mid-stream", "arriving")


def summary(runs: Sequence[Sequence[Row]]) -> list[str]:
    """Markdown. Requests are those of all runs; the time is the median of the runs' medians, and the longest of all."""
    faults: dict[str, dict[str, list[Row]]] = {}
    for row in sorted((row for run in runs for row in run), key=lambda row: str(row["fault"])):
        state = row["state"] if row["state"] in STATES else ""
        faults.setdefault(row["fault"], {}).setdefault(state, []).append(row)
    lines = [
        f"| fault | {' | '.join(STATES)} | others | until the next token, ms |",
        "|---" * (len(STATES) + 3) + "|",
    ]
    for fault, states in faults.items():
        cells = [_outcomes(states.get(state, [])) for state in (*STATES, "")]
        lines.append(f"| {fault} | {' | '.join(cells)} | {_times([row for rows in states.values() for row in rows])} |")
    return lines


def _outcomes(rows: Sequence[Row]) -> str:
    verdicts: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    for row in rows:
        verdicts.update(row["verdicts"])
        codes.update(code for code in row["codes"] if not code.isdigit())
    causes = f" ({', '.join(f'`{code}`' for code in sorted(codes))})" if codes else ""
    return ", ".join(f"{number} {kind}" + causes * (kind == Verdict.ERROR) for kind, number in verdicts.items())


def _times(rows: Sequence[Row]) -> str:
    measured = [(row["state"], row["next_token_ms"]) for row in rows if row["next_token_ms"]]
    states = dict.fromkeys(state for state, _ in measured)
    return ", ".join(
        f"{state} {median(times[0] for each, times in measured if each == state):,.0f}"
        f" (at most {max(times[1] for each, times in measured if each == state):,.0f})"
        for state in states
    )


if __name__ == "__main__":
    print("\n".join(summary([json.loads(Path(path).read_text()) for path in sys.argv[1:]])))
