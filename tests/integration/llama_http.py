"""llama.cpp's HTTP server with the small real model, as a process of its own, for the tests of the engine `openai`."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.processes import Process, Processes
from tests.waiting import eventually_sync

pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (the extra llamacpp)")
from workers_shim.engines.llamacpp_server import find_default_model

MODEL = "smol"
QUESTION = [{"role": "user", "content": "Tell me about gravity in two sentences."}]
_DIFFERS = re.compile(rb'"(id|created|timings|cached_tokens)":("[^"]*"|\d+|\{[^}]*\})')


class LlamaServer:
    """One such process. Skips the test where no model is installed."""

    def __init__(self, processes: Processes, port: int, *options: str) -> None:
        try:
            find_default_model()
        except ValueError as error:
            pytest.skip(str(error))
        self._processes = processes
        self._port = port
        self._options = options
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/v1"
        self.process = self.start()

    def start(self) -> Process:
        """Start it, again if it has ended, and wait until it answers."""
        program = ("-m", "workers_shim.engines.llamacpp_http", "--port", str(self._port), "--alias", MODEL)
        self.process = self._processes.start("python", *program, *self._options)
        eventually_sync(self._is_well)
        return self.process

    def _is_well(self) -> bool:
        assert self.process.returncode is None, self.process.output()
        try:
            return httpx.get(f"{self.root}/health").status_code == 200
        except httpx.TransportError:
            return False

    def busy_slots(self) -> int:
        """Slots that generate."""
        return sum(slot["is_processing"] for slot in httpx.get(f"{self.root}/slots").json())

    def ask(self, path: str, body: dict[str, Any]) -> bytes:
        """A whole answer, without anything of ours between."""
        return httpx.post(f"{self.url}{path}", json=body, timeout=60).content

    def stream(self, path: str, body: dict[str, Any]) -> list[bytes]:
        """The data of each event of a stream."""
        return data_of(self.ask(path, body))


def data_of(events: bytes) -> list[bytes]:
    """What is in a stream of events, without `[DONE]` and comments."""
    lines = [line.removeprefix(b"data: ") for line in events.split(b"\n") if line.startswith(b"data: ")]
    assert lines.pop() == b"[DONE]"
    return lines


def comparable(data: bytes) -> bytes:
    """Without what differs between two equal answers."""
    return _DIFFERS.sub(rb'"\1":0', data)


def text_of(data: list[bytes]) -> str:
    """Of a chat's chunks."""
    deltas = [choice["delta"] for each in data for choice in json.loads(each)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)
