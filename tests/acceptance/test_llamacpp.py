"""The engine llamacpp as people start it, behind a controller: text, images and vectors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.fleet import Fleet, RunningController
from tests.integration.llamacpp_images import BLUE, LANGUAGE_WIDTH, RED, chat_about
from tests.integration.llamacpp_runs import model_file
from tests.integration.tiny_projector import write_projector
from tests.processes import Processes
from tests.waiting import eventually_sync

LOADING = 90.0
"""Seconds; on a quiet machine two."""


@pytest.fixture
def controller(
    processes: Processes,
    broker_url: str,
    prefix: str,
    free_port: Callable[[], int],
    tmp_path: Path,
) -> Iterator[RunningController]:
    """With a worker that sees, as `eyes`, and one that makes vectors, as `vectors`."""
    model = str(model_file())
    projector = write_projector(tmp_path / "mmproj.gguf", language_width=LANGUAGE_WIDTH)
    workers = {"eyes": ("--mmproj", str(projector)), "vectors": ("--embeddings", "mean")}
    with httpx.Client(timeout=60.0) as client:
        controller = Fleet(processes, broker_url, prefix, free_port, client).controller()
        for name, options in workers.items():
            processes.start(
                *("workers-shim", "llamacpp", "--gguf", model, "--model", name, "--name", name, *options),
                *("--context-length", "512", "--threads", "1", "--broker-url", broker_url, "--prefix", prefix),
            )
        eventually_sync(lambda: controller.workers() == dict.fromkeys(workers, "ready"), within=LOADING)
        yield controller


def test_chats_with_images_choices_and_vectors_pass_through_it(controller: RunningController) -> None:
    how: dict[str, Any] = {"model": "eyes", "max_tokens": 8}
    red, blue = [
        controller.post("/v1/chat/completions", how | {"messages": chat_about(image), "temperature": 0})
        for image in (RED, BLUE)
    ]
    choices = controller.post("/v1/completions", how | {"prompt": "Once upon", "n": 2, "seed": 1, "temperature": 1.5})
    vectors = controller.post("/v1/embeddings", {"model": "vectors", "input": ["one text", "another one"]})
    refused = controller.post("/v1/embeddings", {"model": "eyes", "input": "a"})

    assert red["choices"][0]["message"]["content"] != blue["choices"][0]["message"]["content"]
    texts = [choice["text"] for choice in choices["choices"]]
    assert len(set(texts)) == 2
    assert choices["usage"]["completion_tokens"] == 16
    assert [len(part["embedding"]) for part in vectors["data"]] == [LANGUAGE_WIDTH] * 2
    assert vectors["usage"]["prompt_tokens"] > 3
    assert "embedding" in refused["error"]["message"]
