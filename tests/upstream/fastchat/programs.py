"""FastChat's own programs. Used through the fixture `fastchat`."""

from collections.abc import Callable
from pathlib import Path

from tests.processes import Process, Processes
from tests.upstream.programs import UpstreamPrograms, wait_until_it_answers

HEARTBEAT_INTERVAL = 1
"""Seconds; FastChat's own is 45."""


class FastChat(UpstreamPrograms):
    name = "fastchat"

    def __init__(self, processes: Processes, free_port: Callable[[], int], logs: Path) -> None:
        super().__init__(processes, free_port, logs)
        self._env["FASTCHAT_WORKER_HEART_BEAT_INTERVAL"] = str(HEARTBEAT_INTERVAL)

    def controller(self) -> str:
        """Its controller."""
        url, port = self.address()
        process = self.start("fastchat.serve.controller", "--host", "localhost", "--port", port, unstoppable=True)
        wait_until_it_answers(process, f"{url}/test_connection")
        return url

    def api_server(self, controller: str) -> str:
        """Its OpenAI server in front of a controller."""
        url, port = self.address()
        arguments = ("--host", "localhost", "--port", port, "--controller-address", controller)
        process = self.start("fastchat.serve.openai_api_server", *arguments)
        wait_until_it_answers(process, f"{url}/docs")
        return url

    def worker(self, controller: str, model: str = "m", template: str = "qwen-7b-chat") -> tuple[str, Process]:
        """A worker of its base class, which registers at a controller before it listens, as they all do."""
        url, port = self.address()
        arguments = ("--port", port, "--controller-address", controller, "--model", model, "--conv-template", template)
        process = self.start("tests.upstream.fastchat.model_worker", *arguments)
        wait_until_it_answers(process, f"{url}/docs")
        return url, process
