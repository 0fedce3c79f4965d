"""The program itself, behind a real broker and controller."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.fleet import Fleet, RunningController
from tests.processes import Processes
from tests.transformers.runs import chat_about, picture
from tests.waiting import eventually_sync

LOADING = 120.0
"""Seconds. On a busy machine, torch alone is imported for half a minute."""


@pytest.fixture
def controller(
    processes: Processes, broker_url: str, prefix: str, free_port: Callable[[], int], language_model: Path, llava: Path
) -> Iterator[RunningController]:
    """With a worker of either model."""
    with httpx.Client(timeout=60.0) as client:
        controller = Fleet(processes, broker_url, prefix, free_port, client).controller()
        for model in (language_model, llava):
            processes.start(
                *("workers-shim", "transformers", "--model-path", str(model), "--device", "cpu"),
                *("--name", f"worker-of-{model.name}", "--broker-url", broker_url, "--prefix", prefix),
                env={"OMP_NUM_THREADS": "1"},
            )
        wanted = {"worker-of-tiny-llama": "ready", "worker-of-tiny-llava": "ready"}
        eventually_sync(lambda: controller.workers() == wanted, within=LOADING)
        yield controller


def test_a_chat_and_one_with_an_image_stream_through_it(controller: RunningController) -> None:
    text = streamed(controller.url, "tiny-llama", [{"role": "user", "content": "w1 w2"}])
    red, blue = [
        streamed(controller.url, "tiny-llava", chat_about(f"data:image/png;base64,{picture(color)}"))
        for color in ("red", "blue")
    ]
    by_llava = httpx.post(
        f"{controller.url}/worker_generate_stream",
        json={"model": "tiny-llava", "prompt": "<image>w1", "images": [picture("red")], "max_new_tokens": 4},
        timeout=60.0,
    )

    assert len(text.split()) == 8
    assert red != blue
    last = json.loads(by_llava.content.split(b"\0")[-2])
    assert last["error_code"] == 0, last
    assert len(last["text"]) == len("<image>w1") + 4


def streamed(url: str, model: str, messages: list[dict[str, Any]]) -> str:
    body = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60.0) as response:
        assert response.status_code == 200, response.read()
        data = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: {")]
    chunks = [json.loads(chunk) for chunk in data]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
