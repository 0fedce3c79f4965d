"""LLaVA's own test client, request by request with the library that it uses, in front of real processes."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.acceptance.fleet import Fleet, echo_text
from tests.processes import Processes
from tests.waiting import eventually_sync

PROMPT = "A chat between a human and an assistant. ###Human: Tell me a story. ###Assistant:"
WITHIN = 30.0
"""Seconds; LLaVA's test client itself waits without end."""


def ask_as_llavas_test_client(url: str, model: str, tokens: int) -> list[Any]:
    """Refresh, list, get an address, stream from there: what `test_message` does, and the objects that it reads."""
    refreshed = requests.post(f"{url}/refresh_all_workers", timeout=WITHIN)
    assert (refreshed.status_code, refreshed.text) == (200, "null")
    models = requests.post(f"{url}/list_models", timeout=WITHIN).json()["models"]
    assert model in models
    address = requests.post(f"{url}/get_worker_address", json={"model": model}, timeout=WITHIN).json()["address"]
    assert address
    body = {"model": model, "prompt": PROMPT, "max_new_tokens": tokens, "temperature": 0.7, "stop": "###"}
    headers = {"User-Agent": "LLaVA Client"}
    response = requests.post(
        f"{address}/worker_generate_stream", headers=headers, json=body, stream=True, timeout=WITHIN
    )
    chunks = response.iter_lines(chunk_size=8192, decode_unicode=False, delimiter=b"\0")
    return [json.loads(chunk.decode("utf-8")) for chunk in chunks if chunk]


@pytest.mark.parametrize("method", ["queue", "lottery", "shortest_queue"])
def test_its_sequence_of_requests_gets_the_whole_answer(fleet: Fleet, method: str) -> None:
    controller = fleet.controller("--dispatch-method", method)
    for name in ("w1", "w2"):
        fleet.worker(name, "--tokens-per-second", "200")
    controller.wait_for_workers("w1", "w2")
    for _ in range(3):
        parts = ask_as_llavas_test_client(controller.url, "m", 30)
        assert {part["error_code"] for part in parts} == {0}
        for earlier, later in itertools.pairwise(parts):
            assert later["text"].startswith(earlier["text"])
        assert len(parts) > 3
        assert parts[-1]["text"] == PROMPT + echo_text(PROMPT, 30)


def test_a_request_that_waits_is_kept_alive_for_its_gradio_client(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--tokens-per-second", "2")
    controller.wait_for_workers("w1")
    first = controller.stream("occupy the only slot", 24)
    next(first)
    body = {"model": "m", "prompt": PROMPT, "max_new_tokens": 2, "echo": False}
    # 10 s is how long that client waits for the next byte, and the slot is taken for longer than that.
    response = requests.post(f"{controller.url}/worker_generate_stream", json=body, stream=True, timeout=10)
    assert response.status_code == 200
    raw = b"".join(response.iter_content(chunk_size=None))
    assert raw.startswith(b"\0\0")
    assert json.loads(raw.split(b"\0")[-2])["text"] == echo_text(PROMPT, 2)
    *_, last = first
    assert last["text"] == echo_text("occupy the only slot", 24)


def test_no_worker_is_an_empty_address_and_code_2(fleet: Fleet) -> None:
    controller = fleet.controller()
    assert controller.post("/get_worker_address", {"model": "m"}) == {"address": ""}
    last = controller.generate(PROMPT, 1)
    assert last["error_code"] == 2
    assert "'m'" in last["text"]
    assert "NETWORK ERROR" not in last["text"]


def test_the_images_of_its_gradio_server_reach_an_old_worker_as_they_were_sent(
    fleet: Fleet, processes: Processes, free_port: Callable[[], int]
) -> None:
    controller = fleet.controller()
    url = f"http://localhost:{free_port()}"
    worker = processes.start("python", "-m", "tests.old_workers", "llava", "--port", url.rpartition(":")[2])
    worker.wait_for_output("Uvicorn running")
    controller.post("/register_worker", {"worker_name": url, "check_heart_beat": True})
    eventually_sync(
        lambda: controller.workers() == {url: "ready"} and controller.get("/status")["workers"][0]["instance"]
    )

    controller.post("/refresh_all_workers")
    assert controller.post("/list_models") == {"models": ["m"]}
    address = controller.post("/get_worker_address", {"model": "m"})["address"]
    body = {
        "model": "m",
        "prompt": "A chat. USER: <image>\n<image>\nSAY a cat| ASSISTANT:",
        "temperature": 0.2,
        "top_p": 0.7,
        "max_new_tokens": 512,
        "stop": "</s>",
        "images": ["iVBORw0KGgo=", "iVBORw0KGgp="],
    }
    headers = {"User-Agent": "LLaVA Client"}
    response = requests.post(f"{address}/worker_generate_stream", headers=headers, json=body, stream=True, timeout=10)
    chunks = response.iter_lines(decode_unicode=False, delimiter=b"\0")
    parts = [json.loads(chunk.decode()) for chunk in chunks if chunk]

    assert {part["error_code"] for part in parts} == {0}
    assert parts[-1]["text"] == f"{body['prompt']}a cat"
    assert requests.get(f"{url}/seen", timeout=WITHIN).json()["parameters"] == body | {"echo": False}
