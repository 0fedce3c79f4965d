"""An answer of any kind whose worker is killed in the middle: the client has all of it, once, or one clear error."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.fleet import Fleet, RunningController
from tests.processes import Process


def start(fleet: Fleet) -> tuple[RunningController, dict[str, Process]]:
    controller = fleet.controller()
    workers = {name: fleet.any_answer_worker(name) for name in ("w1", "w2")}
    controller.wait_for_workers("w1", "w2")
    return controller, workers


def lines(controller: RunningController, kind: str, headers: dict[str, str] | None = None) -> Iterator[str]:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": kind}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    url = f"{controller.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as response:
        yield response.headers["x-worker"]
        yield from (line for line in response.iter_lines() if line)


def read(answer: Iterator[str], workers: dict[str, Process] | None = None) -> tuple[list[Any], list[str]]:
    """The chunks and the comments. With `workers`, the one that answers is killed after some chunks."""
    busy = next(answer)
    chunks: list[Any] = []
    comments: list[str] = []
    for line in answer:
        if line.startswith(":"):
            comments.append(line)
        elif line != "data: [DONE]":
            chunks.append(json.loads(line.removeprefix("data: ")))
        if workers is not None and len(chunks) == 15:
            workers[busy].kill()
            workers = None
    return chunks, comments


def without_identity(chunks: list[Any]) -> list[Any]:
    plain = json.loads(json.dumps(chunks))
    for chunk in plain:
        del chunk["id"], chunk["created"]
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls", ()):
                call.pop("id", None)
    return plain  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["text", "payload", "n=2", "tools", "logprobs"])
def test_a_stream_of_any_kind_goes_on_where_its_killed_worker_stopped(fleet: Fleet, kind: str) -> None:
    controller, workers = start(fleet)
    undisturbed, _ = read(lines(controller, kind))
    chunks, comments = read(lines(controller, kind), workers)
    assert without_identity(chunks) == without_identity(undisturbed)
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert ": moved attempts=2" in comments


def test_an_engine_that_answers_otherwise_the_second_time_ends_the_stream_with_one_error(fleet: Fleet) -> None:
    controller, workers = start(fleet)
    chunks, _ = read(lines(controller, "diverging"), workers)
    assert [number for number, chunk in enumerate(chunks) if "error" in chunk] == [len(chunks) - 1]
    assert chunks[-1]["error"]["code"] == "worker_lost"
    assert "the repeated answer differs from the first after" in chunks[-1]["error"]["message"]


@pytest.mark.parametrize(
    ("wish", "sentence"), [("never", "X-Resume: never"), ("prefix", "cannot go on from a text, as X-Resume asks for")]
)
def test_a_client_can_refuse_the_way_in_which_an_answer_would_go_on(fleet: Fleet, wish: str, sentence: str) -> None:
    controller, workers = start(fleet)
    chunks, _ = read(lines(controller, "text", {"X-Resume": wish}), workers)
    assert chunks[-1]["error"]["code"] == "worker_lost"
    assert sentence in chunks[-1]["error"]["message"]
