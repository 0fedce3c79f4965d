"""A fleet in which a worker stands before a real llama.cpp server: what clients get, and what they get when it dies."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.fleet import Fleet, RunningController
from tests.integration.llama_http import MODEL, QUESTION, LlamaServer, comparable, data_of
from tests.processes import Process, Processes
from tests.waiting import EventuallySync

CHAT: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 0, "seed": 1, "max_tokens": 12}
STREAMED = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
ENDLESS = STREAMED | {"max_tokens": 1800, "ignore_eos": True}


@pytest.fixture
def llama(processes: Processes, free_port: Callable[[], int]) -> LlamaServer:
    return LlamaServer(processes, free_port())


def start_worker(processes: Processes, broker_url: str, prefix: str, url: str) -> Process:
    options = ("--name", "w", "--url", url, "--broker-url", broker_url, "--prefix", prefix)
    return processes.start("workers-shim", "openai", *options)


def post(controller: RunningController, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{controller.url}/v1/chat/completions", json=body, timeout=60)


def models(controller: RunningController) -> list[str]:
    return [model["id"] for model in controller.get("/v1/models")["data"]]


def read_until_killed(lines: Iterator[str], server: Process) -> list[str]:
    """Kill the server once there are three chunks; the rest."""
    data = [next(line for line in lines if line.startswith("data: ")) for _ in range(3)]
    server.kill()
    return data + [line for line in lines if line.startswith("data: ")]


def test_a_fleet_before_a_real_server(
    fleet: Fleet,
    llama: LlamaServer,
    processes: Processes,
    broker_url: str,
    prefix: str,
    eventually_sync: EventuallySync,
) -> None:
    controller = fleet.controller()
    worker = start_worker(processes, broker_url, prefix, llama.url)
    controller.wait_for_workers("w")
    assert models(controller) == [MODEL]

    # What clients get is the server's own.
    ours = data_of(post(controller, STREAMED).content)
    assert list(map(comparable, ours)) == list(map(comparable, llama.stream("/chat/completions", STREAMED)))
    whole = post(controller, CHAT)
    assert comparable(whole.content) == comparable(llama.ask("/chat/completions", CHAT))
    refused = post(controller, CHAT | {"messages": [{"role": "user", "content": "gravity " * 3000}]})
    assert refused.status_code == 400
    assert "exceeds the available context size" in refused.json()["error"]["message"]
    assert refused.json()["error"]["code"] == "context_length_exceeded"

    # It is killed in the middle of an answer.
    with httpx.stream("POST", f"{controller.url}/v1/chat/completions", json=ENDLESS, timeout=60) as response:
        *_, error, done = read_until_killed(response.iter_lines(), llama.process)
    assert done == "data: [DONE]"
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "worker_lost"
    eventually_sync(lambda: models(controller) == [])
    assert "models are withdrawn" in worker.output()

    # And is back.
    llama.start()
    eventually_sync(lambda: models(controller) == [MODEL])
    assert post(controller, CHAT).status_code == 200
    worker.terminate()
    assert worker.wait() == 0
    assert "Traceback" not in worker.output()


def test_an_answer_moves_to_another_server_where_it_is_repeated(
    fleet: Fleet, processes: Processes, broker_url: str, prefix: str, free_port: Callable[[], int]
) -> None:
    controller = fleet.controller()
    servers = {name: LlamaServer(processes, free_port(), "--slots", "1") for name in ("a", "b")}
    for name, server in servers.items():
        options = ("--name", name, "--url", server.url, "--resume", "replay", "--slots", "1")
        processes.start("workers-shim", "openai", *options, "--broker-url", broker_url, "--prefix", prefix)
    controller.wait_for_workers("a", "b")
    body = ENDLESS | {"max_tokens": 40}
    right = next(iter(servers.values())).stream("/chat/completions", body)

    with httpx.stream("POST", f"{controller.url}/v1/chat/completions", json=body, timeout=60) as response:
        server = servers[response.headers["x-worker"]]
        *data, done = read_until_killed(response.iter_lines(), server.process)

    assert done == "data: [DONE]"
    got = [line.removeprefix("data: ").encode() for line in data]
    assert list(map(comparable, got)) == list(map(comparable, right))
