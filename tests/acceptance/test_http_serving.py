"""The controller as a process in front of real sockets: starting, bodies, TLS, leaving."""

import contextlib
import itertools
import json
import resource
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from tests.acceptance.fleet import Fleet, echo_text
from tests.processes import Processes
from tests.waiting import eventually_sync

PROMPT = "the quick brown fox"
WITHIN = 30.0


def test_it_serves_without_a_broker_says_why_it_is_not_ready_and_comes_to_be(
    processes: Processes, free_port: Callable[[], int]
) -> None:
    port, nobody = free_port(), free_port()
    process = processes.start(
        "broker-controller", "--port", str(port), "--broker-url", f"amqp://guest:secret@localhost:{nobody}/"
    )
    url = f"http://localhost:{port}"
    process.wait_for_output("serving url=")
    assert requests.get(f"{url}/healthz", timeout=WITHIN).status_code == 200
    eventually_sync(lambda: str(nobody) in requests.get(f"{url}/readyz", timeout=WITHIN).text)
    ready = requests.get(f"{url}/readyz", timeout=WITHIN)
    assert ready.status_code == 503
    process.wait_for_output(f"broker not reachable.*{nobody}")
    assert "secret" not in process.output() + ready.text

    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    answer = requests.post(f"{url}/v1/chat/completions", json=body, timeout=WITHIN)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    process.terminate()
    assert process.wait() == 0


def test_it_takes_as_many_clients_as_the_system_allows(
    processes: Processes, free_port: Callable[[], int], request: pytest.FixtureRequest
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    process = processes.start("broker-controller", "--port", str(free_port()), "--broker-url", "amqp://localhost:1/")
    process.wait_for_output("serving url=")
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == hard


def test_a_port_that_is_taken_is_told_in_one_sentence(processes: Processes, fleet: Fleet) -> None:
    controller = fleet.controller()
    port = controller.url.rpartition(":")[2]
    second = processes.start("broker-controller", "--port", port, "--broker-url", "amqp://localhost:1/")
    assert second.wait() == 2
    assert second.output().count("\n") == 1
    assert f"port {port} on localhost is taken" in second.output()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_20_mib_is_a_413_that_clients_can_read(fleet: Fleet, chunked: bool) -> None:
    controller = fleet.controller()
    big = b'{"model": "m", "prompt": "' + b"a" * 20 * 1024 * 1024 + b'"}'
    for path in ("/worker_generate_stream", "/v1/completions", "/register_worker"):
        data = itertools.repeat(big[: 1024 * 1024], 20) if chunked else big
        answer = requests.post(f"{controller.url}{path}", data=data, timeout=WITHIN)
        assert answer.status_code == 413
        assert "bytes" in answer.text
    assert controller.ready()


@pytest.mark.parametrize("head", [b"X-Long: " + b"a" * 1_000_000, b"a: b\r\n" * 300_000])
def test_headers_without_end_are_cut_off(fleet: Fleet, head: bytes) -> None:
    controller = fleet.controller()
    port = int(controller.url.rpartition(":")[2])
    with socket.create_connection(("localhost", port), timeout=WITHIN) as client:
        # The controller closes while the rest is still on its way.
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + head)
        with contextlib.suppress(ConnectionResetError):
            answer = client.recv(1000)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
            while client.recv(65536):
                pass
    many = {f"X-{number}": "a" * 1000 for number in range(30)}
    assert requests.get(f"{controller.url}/healthz", headers=many, timeout=WITHIN).status_code == 200


def test_bodies_that_are_still_coming_in_count_against_the_bound(fleet: Fleet) -> None:
    controller = fleet.controller("--max-inflight-bytes", "1000000")
    port = int(controller.url.rpartition(":")[2])
    half = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n" + b"a" * 900_000

    def held() -> int:
        size: int = controller.get("/status")["streams"]["inflight_bytes"]
        return size

    def status_of(prompt: str) -> int:
        body = {"model": "nobody's", "prompt": prompt}
        return requests.post(f"{controller.url}/v1/completions", json=body, timeout=WITHIN).status_code

    with socket.create_connection(("localhost", port), timeout=WITHIN) as client:
        client.sendall(half)
        eventually_sync(lambda: held() == 900_000)
        assert status_of("a" * 200_000) == 429
        assert status_of("a" * 20_000) == 404
    eventually_sync(lambda: held() == 0)
    assert status_of("a" * 200_000) == 404


def test_a_body_of_15_mib_reaches_a_worker_and_comes_back(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1")
    controller.wait_for_workers("w1")
    word = "a" * 15_000_000
    answer = controller.chat(word, 1)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == word


def test_the_request_id_is_in_the_answer_and_in_the_logs_of_both_sides(fleet: Fleet) -> None:
    controller = fleet.controller("--log-level", "debug")
    worker = fleet.worker("w1", "--log-level", "debug")
    controller.wait_for_workers("w1")
    body = {"model": "m", "prompt": PROMPT, "max_new_tokens": 1}
    answer = requests.post(
        f"{controller.url}/worker_generate", json=body, headers={"X-Request-Id": "find-me-4711"}, timeout=WITHIN
    )
    assert answer.headers["x-request-id"] == "find-me-4711"
    controller.process.wait_for_output(
        r"answered request=find-me-4711 method=POST path=/worker_generate status=200 ms=\d"
    )
    worker.wait_for_output("find-me-4711")


def test_a_slow_reader_gets_everything_and_holds_nobody_up(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--slots", "2")
    controller.wait_for_workers("w1")
    tokens = 60_000
    body = {"model": "m", "prompt": PROMPT, "max_tokens": tokens, "stream": True}
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", f"{controller.url}/v1/completions", json=body) as slow,
    ):
        lines = slow.iter_lines()
        first = next(lines)
        assert controller.chat(PROMPT, 100).status_code == 200
        events = [line.removeprefix("data: ") for line in [first, *lines] if line]
    texts = [json.loads(event)["choices"][0]["text"] for event in events if event != "[DONE]"]
    assert events[-1] == "[DONE]"
    assert "".join(texts) == echo_text(PROMPT, tokens)


def test_an_answer_that_outlasts_the_time_to_drain_ends_with_a_sentence(fleet: Fleet) -> None:
    controller = fleet.controller("--drain-timeout", "1")
    fleet.worker("w1", "--tokens-per-second", "10")
    controller.wait_for_workers("w1")
    stream = controller.stream(PROMPT, 10_000)
    next(stream)
    controller.process.terminate()
    *_, last = stream
    assert last["error_code"] == 3
    assert "shut down" in last["text"]
    assert controller.process.wait() == 0


def test_while_it_leaves_it_accepts_nobody_and_a_second_signal_ends_it(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--tokens-per-second", "10")
    controller.wait_for_workers("w1")
    stream = controller.stream(PROMPT, 10_000)
    next(stream)
    ended = threading.Thread(target=lambda: list(_until_cut(stream)))
    ended.start()
    controller.process.terminate()
    port = int(controller.url.rpartition(":")[2])
    eventually_sync(lambda: not _listens(port))
    assert controller.process.returncode is None
    controller.process.terminate()
    assert controller.process.wait() == 0
    ended.join(WITHIN)
    assert not ended.is_alive()
    assert "leaving at once" in controller.process.output()
    assert "Traceback" not in controller.process.output()


def test_a_request_timeout_above_the_brokers_own_limit_is_refused(
    fleet: Fleet, processes: Processes, broker_url: str, free_port: Callable[[], int]
) -> None:
    version = fleet.controller().get("/status")["broker"]["version"]
    if tuple(map(int, version.split("."))) >= (3, 12):
        pytest.skip("this RabbitMQ has its limit set by the queue")
    options = ("--port", str(free_port()), "--broker-url", broker_url, "--request-timeout", "3600")
    refused = processes.start("broker-controller", *options)
    assert refused.wait() == 2
    assert "set it to 1740 at most" in refused.output()


def test_it_serves_https(
    processes: Processes, broker_url: str, prefix: str, free_port: Callable[[], int], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make, *files], check=True, capture_output=True)
    port = free_port()
    options = ("--port", str(port), "--broker-url", broker_url, "--prefix", prefix)
    process = processes.start(
        "broker-controller", *options, "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)
    )
    process.wait_for_output(f"serving url=https://localhost:{port}")
    answer = requests.get(f"https://localhost:{port}/healthz", verify=str(certificate), timeout=WITHIN)
    assert answer.json() == {"status": "ok"}


def _until_cut(stream: Iterator[Any]) -> Iterator[Any]:
    with contextlib.suppress(httpx.TransportError, AssertionError):
        yield from stream


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("localhost", port), timeout=WITHIN):
            return True
    except ConnectionRefusedError:
        return False
