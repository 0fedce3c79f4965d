"""The processes of one benchmark run: started in a group of their own, ended in reverse order, whatever happens.

Used by the suite. A child also gets SIGTERM from the kernel when the benchmark is killed, so nothing outlives it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Sequence
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


def last_words(error: Exception) -> str:
    """The end of what it says, in one line."""
    return " ".join(str(error).split())[-300:]


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """A context manager; leaving it ends all that was started in it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
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
        self._folder.cleanup()

    @property
    def folder(self) -> Path:
        """For files that they need; it goes with them."""
        return Path(self._folder.name)

    def start(self, name: str, command: Sequence[str], ready: Callable[[], bool], timeout: float = 60.0) -> int:
        """Starts a command and waits, `timeout` seconds at most, until `ready` says so; returns its process id.

        Raises: StartError.
        """
        process, output = _spawn(command, self.folder)
        self._running.append((name, process, output))
        try:
            self._wait_until(ready, name, timeout)
        except (StartError, OSError):
            # The others may do without it.
            self._running.pop()
            _end(process)
            output.close()
            raise
        return process.pid

    def _wait_until(self, ready: Callable[[], bool], name: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                output = self._running[-1][2]
                raise StartError(f"{name} was not ready within {timeout:.0f} s; it wrote:\n{_last_lines(output)}")
            time.sleep(POLL_INTERVAL)

    def has_written(self, pid: int, text: str) -> bool:
        """Whether this process has written this text. Raises: StartError if it has ended."""
        self.check({pid})
        return any(_has(output, text) for _, process, output in self._running if process.pid == pid)

    def check(self, pids: Container[int] | None = None) -> None:
        """Raises: StartError if one of them, or of these, has ended."""
        for name, process, output in self._running:
            code = process.poll()
            if code is not None and (pids is None or process.pid in pids):
                raise StartError(f"{name} ended with exit code {code}; it wrote:\n{_last_lines(output)}")


def _has(output: IO[bytes], text: str) -> bool:
    output.seek(0)
    return text.encode() in output.read()


def _spawn(command: Sequence[str], folder: Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    output = tempfile.TemporaryFile()  # noqa: SIM115  it is closed when the process has ended
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,  # some write their logs where they are started
        env=os.environ | {"PYTHONPATH": str(_PROJECT)},
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
