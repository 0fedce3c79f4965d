"""The processes of one benchmark run: started in a group of their own, ended in reverse order, whatever happens.

Used by the suite. A child also gets SIGTERM from the kernel when the benchmark is killed, so nothing outlives it.
"""

import asyncio
import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL
POLL_INTERVAL = 0.05  # seconds between two looks whether a process is ready
_PR_SET_PDEATHSIG = 1  # prctl(2), linux/prctl.h


class StartError(Exception):
    """A process ended, or was not ready in time. The text holds the end of what it wrote."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """An async context manager; leaving it ends all that was started in it."""

    def __init__(self) -> None:
        self._running: list[tuple[str, subprocess.Popen[bytes], IO[bytes]]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for _, process, output in reversed(self._running):
            _end(process)
            output.close()
        self._running.clear()

    async def start(
        self,
        name: str,
        command: Sequence[str],
        ready: Callable[[], Awaitable[bool]],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> int:
        """Starts a command and waits, `timeout` seconds at most, until `ready` says so; returns its process id.

        Raises: StartError.
        """
        process, output = _spawn(command, environment)
        self._running.append((name, process, output))
        deadline = asyncio.get_running_loop().time() + timeout
        while not await ready():
            code = process.poll()
            if code is not None or asyncio.get_running_loop().time() > deadline:
                what = f"ended with exit code {code}" if code is not None else f"was not ready within {timeout:.0f} s"
                raise StartError(f"{name} {what}; it wrote:\n{_last_lines(output)}")
            await asyncio.sleep(POLL_INTERVAL)
        return process.pid

    def check(self) -> None:
        """Raises: StartError if one of them has ended meanwhile."""
        for name, process, output in self._running:
            code = process.poll()
            if code is not None:
                raise StartError(f"{name} ended with exit code {code}; it wrote:\n{_last_lines(output)}")


def _spawn(command: Sequence[str], environment: Mapping[str, str] | None) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    output = tempfile.TemporaryFile()  # noqa: SIM115  it is closed when the process has ended
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=Path(__file__).parent.parent,
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


async def accepts(host: str, port: int) -> bool:
    """Does something listen there?"""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True
