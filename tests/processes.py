"""Real processes for the acceptance tests, started through the command line and gone after the test.

Used by the tests through the fixture `processes` of conftest.py.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_POLL_SECONDS = 0.05
_END_SECONDS = 15.0
_OUTPUT_SHOWN = 20_000


class Process:
    """One started program; its standard output and error are in `log`."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str], cwd: Path | None = None) -> None:
        self.command = command
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """What it has written so far, to both outputs."""
        return self.log.read_text(errors="replace")

    def signal(self, signum: signal.Signals) -> None:
        """SIGSTOP, SIGCONT, SIGINT, …"""
        self._process.send_signal(signum)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        """kill -9, and reap it."""
        self._process.kill()
        self._process.wait()

    def wait(self, within: float = 60.0) -> int:
        """Its exit code; the test fails when it still runs after `within` seconds."""
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.command[0]} still runs after {within} s:\n{self.output()[-_OUTPUT_SHOWN:]}")

    def wait_for_output(self, pattern: str, within: float = 30.0) -> "re.Match[str]":
        """The first match of the regular expression in what it writes; the test fails when it ends before that."""
        deadline = time.monotonic() + within
        while True:
            ended = self.returncode is not None
            if found := re.search(pattern, self.output(), re.MULTILINE):
                return found
            if ended or time.monotonic() > deadline:
                state = f"ended with {self.returncode}" if ended else f"wrote no such line within {within} s"
                pytest.fail(f"{self.command[0]} {state}; wanted {pattern!r}:\n{self.output()[-_OUTPUT_SHOWN:]}")
            time.sleep(_POLL_SECONDS)

    def end(self) -> None:
        """End it and all that it started, in order if it does so in time."""
        if self.returncode is None:
            self.signal(signal.SIGCONT)
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Processes:
    """Starts processes, and ends all of them at the end of the test. Their output is shown when the test fails.

    `quiet`: it is not shown at all.
    """

    def __init__(self, folder: Path, *, quiet: bool = False) -> None:
        self._folder = folder
        self._quiet = quiet
        self._started: list[Process] = []

    def start(
        self, program: str, *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> Process:
        """Start a program of ours (`broker-controller`, `workers-shim`), `python`, or any on the PATH.

        `env` is added to our own environment, from which everything that configures our programs is left out.
        """
        log = self._folder / f"{len(self._started)}-{Path(program).name}.log"
        ours = ("BROKER_CONTROLLER_", "WORKERS_SHIM_", "AMQP_URL")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment = clean | {"PYTHONUNBUFFERED": "1"} | (env or {})
        process = Process([_path_of(program), *map(str, arguments)], log, environment, cwd)
        self._started.append(process)
        return process

    def end(self) -> None:
        """End all, the last one first."""
        for process in reversed(self._started):
            process.end()
            if self._quiet:
                continue
            print(f"--- {' '.join(process.command)} (exit code {process.returncode})")
            print(process.output()[-_OUTPUT_SHOWN:])


def _path_of(program: str) -> str:
    if program == "python":
        return sys.executable
    installed = Path(sys.executable).parent / program
    return str(installed) if installed.exists() else program
