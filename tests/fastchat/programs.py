"""Starts FastChat's own programs, unchanged, from their own environment. Used through the fixture `fastchat`."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.processes import Process, Processes
from tests.waiting import eventually_sync

ROOT = Path(__file__).parents[2]
INTERPRETER = ROOT / ".venv-fastchat/bin/python"
STARTED_WITHIN = 90.0
"""Seconds. They import for long."""
HEARTBEAT_INTERVAL = 1
"""Seconds; FastChat's own is 45."""


class FastChat:
    """What FastChat consists of."""

    def __init__(self, processes: Processes, free_port: Callable[[], int], logs: Path) -> None:
        self._processes = processes
        self._free_port = free_port
        self._controllers: list[Process] = []
        self._env = {
            "PYTHONPATH": str(ROOT),
            "LOGDIR": str(logs),
            "FASTCHAT_WORKER_HEART_BEAT_INTERVAL": str(HEARTBEAT_INTERVAL),
        }

    def end(self) -> None:
        """Its controllers end by no other signal: a thread of theirs sleeps for 90 s."""
        for process in self._controllers:
            process.kill()

    def start(self, module: str, *arguments: str) -> Process:
        """Any of its programs."""
        return self._processes.start(str(INTERPRETER), "-m", module, *arguments, env=self._env)

    def controller(self) -> str:
        """Its controller."""
        url, port = self._address()
        process = self.start("fastchat.serve.controller", "--host", "localhost", "--port", port)
        self._controllers.append(process)
        _wait_until_it_answers(process, f"{url}/test_connection")
        return url

    def api_server(self, controller: str) -> str:
        """Its OpenAI server in front of a controller."""
        url, port = self._address()
        arguments = ("--host", "localhost", "--port", port, "--controller-address", controller)
        process = self.start("fastchat.serve.openai_api_server", *arguments)
        _wait_until_it_answers(process, f"{url}/docs")
        return url

    def worker(self, controller: str, model: str = "m", template: str = "qwen-7b-chat") -> tuple[str, Process]:
        """A worker of its base class, which registers at a controller before it listens, as they all do."""
        url, port = self._address()
        arguments = ("--port", port, "--controller-address", controller, "--model", model, "--conv-template", template)
        process = self.start("tests.fastchat.model_worker", *arguments)
        _wait_until_it_answers(process, f"{url}/docs")
        return url, process

    def _address(self) -> tuple[str, str]:
        port = self._free_port()
        return f"http://localhost:{port}", str(port)


def _wait_until_it_answers(process: Process, url: str) -> None:
    def answers() -> bool:
        if process.returncode is not None:
            pytest.fail(f"{process.command} ended with {process.returncode}:\n{process.output()}")
        try:
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    eventually_sync(answers, STARTED_WITHIN)
