"""The question that a registration without a status asks, put to a real HTTP server."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from broker_controller.controller import MAX_STATUS_BYTES, Controller, ask_worker_status


class Worker(BaseHTTPRequestHandler):
    """Answers by the first part of the path, so that one server is many workers."""

    answers: ClassVar[dict[str, tuple[int, bytes]]] = {
        "good": (200, b'{"model_names": ["m"], "speed": 1, "queue_length": 0}'),
        "list": (200, b'["m"]'),
        "text": (200, b"<html>"),
        "empty": (200, b""),
        "latin": (200, b"\xff\xfe\xfd"),
        "deep": (200, b"[" * 100_000),
        "long": (200, b'"' + b"x" * MAX_STATUS_BYTES + b'"'),
        "broken": (500, b'{"model_names": ["m"], "speed": 1, "queue_length": 0}'),
    }

    def do_POST(self) -> None:
        worker, _, path = self.path.strip("/").partition("/")
        if worker == "no-http":
            self.wfile.write(b"SSH-2.0-not-http\r\n")
            return
        code, body = self.answers[worker] if path == "worker_get_status" else (404, b"")
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Worker) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_worker_that_answers_is_registered_with_its_own_status(url: str) -> None:
    asks = Controller("lottery")
    assert asks.register_worker(f"{url}/good", True, None) is True
    assert asks.list_models() == ["m"]
    asks.refresh_all_workers()
    assert asks.get_worker_address("m") == f"{url}/good"


@pytest.mark.parametrize("kind", ["list", "text", "empty", "latin", "deep", "long", "broken", "no-http"])
def test_any_other_answer_is_no_status(url: str, kind: str) -> None:
    assert ask_worker_status(f"{url}/{kind}") is None
    assert Controller("lottery").register_worker(f"{url}/{kind}", True, None) is False


@pytest.mark.parametrize("name", ["http://127.0.0.1:1", "http://127.0.0.1:no-port", "http://[", "file:///etc", "w"])
def test_nobody_there_is_no_status(name: str) -> None:
    assert ask_worker_status(name) is None
