"""The processes of one benchmark run: started in a group of their own, ended in reverse order, whatever happens.

Used by the suite. A child also gets SIGTERM from the kernel when the benchmark is killed, so nothing outlives it.
"""

import ctypes
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

STOP_TIMEOUT = 15.0  # seconds from SIGTERM to SIGKILL
POLL_INTERVAL = 0.05  # seconds between two looks whether a process is ready
_PR_SET_PDEATHSIG = 1  # prctl(2), linux/prctl.h
_PROJECT = Path(__file__).parent.parent


class StartError(Exception):
    """A process ended, or was not ready in time. The text holds the end of what it wrote."""


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """A context manager; leaving it ends all that was started in it."""

    def __init__(self) -> None:
        self._running: list[tuple[str, subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        while self._running:
            _, process, output = self._running.pop()
            _end(process)
            output.close()

    def start(self, name: str, command: Sequence[str], ready: Callable[[], bool], timeout: float = 60.0) -> int:
        """Starts a command and waits, `timeout` seconds at most, until `ready` says so; returns its process id.

        Raises: StartError.
        """
        process, output = _spawn(command)
        self._running.append((name, process, output))
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise StartError(f"{name} was not ready within {timeout:.0f} s; it wrote:\n{_last_lines(output)}")
            time.sleep(POLL_INTERVAL)
        return process.pid

    def check(self) -> None:
        """Raises: StartError if one of them has ended."""
        for name, process, output in self._running:
            code = process.poll()
            if code is not None:
                raise StartError(f"{name} ended with exit code {code}; it wrote:\n{_last_lines(output)}")


def _spawn(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    output = tempfile.TemporaryFile()  # noqa: SIM115  it is closed when the process has ended
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=_PROJECT,
        start_new_session=True,  # Ctrl-C reaches the benchmark alone, which ends the others in order
        preexec_fn=_end_with_parent,
    )
    return process, output


def _end(process: subprocess.Popen[bytes]) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            process.send_signal(signal_number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
            return


def _last_lines(output: IO[bytes], count: int = 20) -> str:
    output.seek(0)
    return "\n".join(output.read().decode(errors="replace").splitlines()[-count:])
