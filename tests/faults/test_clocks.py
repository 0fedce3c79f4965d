"""The clock of the wall jumps by an hour on one machine: nothing depends on wall clocks that agree."""

import asyncio
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from tests.faults.conftest import Record
from tests.faults.history import all_complete
from tests.faults.scene import QUEUED, Scene
from tests.faults.settings import DEFAULT, cases, settings_of_environment

HOUR = 3600
ALL = [(whose, seconds) for whose in ("controller", "w1") for seconds in (HOUR, -HOUR)]


class ShiftedClock:
    """libfaketime for one process: `shift` may be called while it runs. The monotonic clock stays right."""

    def __init__(self, offset: Path) -> None:
        self._offset = offset
        self.shift(0)

    def shift(self, seconds: int) -> None:
        """From now on its wall clock is so far ahead."""
        # In one step: a process reads it with each look at its clock.
        draft = self._offset.with_suffix(".draft")
        draft.write_text(f"{seconds:+d}\n")
        draft.replace(self._offset)

    def environment(self) -> dict[str, str]:
        """For the process."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


def _library() -> Path:
    found = next(_libraries(), None)
    if found is None:
        # The whole matrix is not to lack a row because of that.
        give_up = pytest.fail if settings_of_environment() == DEFAULT else pytest.skip
        give_up("libfaketime is not installed")
    return found


def _libraries() -> Iterator[Path]:
    for folder in ("/usr/lib", "/usr/local/lib"):
        yield from Path(folder).glob("**/faketime/libfaketime.so.1")


@pytest.mark.parametrize(("whose", "seconds"), cases(ALL, short=[("controller", HOUR)]))
async def test_set(scene: Scene, record: Record, tmp_path: Path, whose: str, seconds: int) -> None:
    clock = ShiftedClock(tmp_path / "offset")
    scene.environments[whose] = clock.environment()
    await asyncio.to_thread(scene.start, "w1", "w2")
    await scene.bring(mid_stream=4, starting=4, queued=4)
    scene.let_clients_arrive()
    scene.fault()
    clock.shift(seconds)
    exchanges = await scene.finish()
    program = "controller" if whose == "controller" else "worker"
    record(f"clock of the {program} set by {seconds:+d} s", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert all(len(exchange.starts) == 1 for exchange in exchanges)
    assert QUEUED in {exchange.group for exchange in exchanges}
    assert [worker["state"] for worker in (await scene.status())["workers"]] == ["ready"] * 2
    # Its own log shows that its clock was set.
    process = scene.controller.process if whose == "controller" else scene.workers[whose]
    assert has_jumped(process.output(), seconds)


def has_jumped(log: str, seconds: int) -> bool:
    """Whether two lines of a log that follow each other are about so far apart."""
    times = [datetime.fromisoformat(stamp) for stamp in re.findall(r"^(20\S+Z) ", log, re.MULTILINE)]
    steps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    return any(abs(step - seconds) < HOUR / 2 for step in steps)
