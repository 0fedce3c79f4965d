"""The processor time of processes, with that of what they have started."""

import os
import subprocess
import sys

from benchmarks.cpu import cpu_seconds
from tests.waiting import eventually_sync

SPIN = "while True: pass"
START_ONE_THAT_SPINS = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"


def test_a_process_has_the_time_of_those_that_it_has_started() -> None:
    process = subprocess.Popen([sys.executable, "-c", START_ONE_THAT_SPINS], start_new_session=True)
    try:
        eventually_sync(lambda: cpu_seconds([process.pid]) > 0.5)
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_a_process_that_is_no_more_has_used_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu_seconds([process.pid]) == 0.0
