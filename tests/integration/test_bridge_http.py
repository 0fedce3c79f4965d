"""Registration of HTTP workers at a real controller process, as LLaVA's and FastChat's workers do it, by `requests`."""

import json
from collections.abc import Callable

import pytest
import requests

from tests.processes import Process, Processes
from tests.waiting import EventuallySync

FreePort = Callable[[], int]


class Controller:
    """A controller process and its address."""

    def __init__(self, processes: Processes, broker_url: str, prefix: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        arguments = ("--port", str(port), "--broker-url", broker_url, "--prefix", prefix)
        self.process: Process = processes.start("broker-controller", *arguments)

    def post(self, path: str, body: object = None) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=30)

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False


@pytest.fixture
def controller(
    processes: Processes, broker_url: str, prefix: str, free_port: FreePort, eventually_sync: EventuallySync
) -> Controller:
    started = Controller(processes, broker_url, prefix, free_port())
    eventually_sync(started.is_ready)
    return started


def test_a_worker_registers_beats_and_answers(
    controller: Controller, processes: Processes, free_port: FreePort
) -> None:
    port = free_port()
    worker = processes.start("python", "-m", "tests.old_workers", "llava", "--port", str(port))
    worker.wait_for_output("Uvicorn running")
    url = f"http://localhost:{port}"

    registered = controller.post("/register_worker", {"worker_name": url, "check_heart_beat": True})

    assert (registered.status_code, registered.json()) == (200, None)
    assert controller.post("/receive_heart_beat", {"worker_name": url, "queue_length": 0}).json() == {"exist": True}
    assert controller.post("/list_models").json() == {"models": ["m"]}
    answer = controller.post("/worker_generate_stream", {"model": "m", "prompt": "SAY one two|", "stop": "###"})
    objects = [json.loads(piece) for piece in answer.content.split(b"\0") if piece]
    assert objects[-1] == {"text": "SAY one two|one two", "error_code": 0, "finish_reason": "stop"}


def test_a_worker_outside_the_allowed_networks_is_refused(controller: Controller) -> None:
    status = {"model_names": ["m"], "speed": 1, "queue_length": 0}
    body = {"worker_name": "http://192.0.2.1:21002", "check_heart_beat": True, "worker_status": status}

    answer = controller.post("/register_worker", body)

    assert answer.status_code == 403
    assert "192.0.2.1" in answer.text
    assert controller.post("/list_models").json() == {"models": []}
    assert "address of an HTTP worker refused" in controller.process.output()


def test_a_heartbeat_of_an_unknown_worker_tells_it_to_register(controller: Controller) -> None:
    body = {"worker_name": "http://127.0.0.1:21002", "queue_length": 0}

    assert controller.post("/receive_heart_beat", body).json() == {"exist": False}
