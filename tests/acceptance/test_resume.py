"""An answer of any kind whose worker is killed in the middle: the client has all of it, once, or one clear error."""

import itertools
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.acceptance.any_answer import TOKENS
from tests.acceptance.fleet import Fleet, RunningController, echo_text
from tests.processes import Process
from tests.waiting import eventually_sync

TEXT = "".join(f"t{number} " for number in range(TOKENS))


def start(fleet: Fleet, *options: str) -> tuple[RunningController, dict[str, Process]]:
    controller = fleet.controller()
    workers = {name: fleet.any_answer_worker(name, *options) for name in ("w1", "w2")}
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


def busy_worker(controller: RunningController) -> str:
    """The one that says it has a request; "" while none does."""
    return next((worker["name"] for worker in controller.get("/status")["workers"] if worker["running"]), "")


def dead(workers: dict[str, Process]) -> str:
    """The one that was killed."""
    (name,) = (name for name, worker in workers.items() if worker.returncode is not None)
    return name


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
    # At the moment of the move, or else at the end alone: the client may just have been busy with a chunk.
    *_, last = comments
    (survivor,) = (name for name, worker in workers.items() if worker.returncode is None)
    assert re.fullmatch(rf": worker={survivor} attempts=2 queue_time=\d+\.\d{{3}}", last)
    assert set(comments[:-1]) <= {f": moving from={dead(workers)}", f": moved worker={survivor} attempts=2"}


def test_a_whole_answer_whose_worker_is_killed_says_how_many_attempts_it_took(fleet: Fleet) -> None:
    controller, workers = start(fleet)
    undisturbed = controller.chat("text", 60)
    eventually_sync(lambda: not busy_worker(controller))
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(controller.chat, "text", 60)
        busy = eventually_sync(lambda: busy_worker(controller))
        workers[busy].kill()
        moved = answer.result()
    (survivor,) = workers.keys() - {busy}
    assert moved.json()["choices"] == undisturbed.json()["choices"]
    assert undisturbed.headers["x-attempts"] == "1"
    assert (moved.headers["x-attempts"], moved.headers["x-worker"]) == ("2", survivor)


def test_the_last_object_of_llavas_stream_says_who_gave_an_answer_that_moved(fleet: Fleet) -> None:
    controller = fleet.controller()
    workers = {name: fleet.worker(name, "--tokens-per-second", "20") for name in ("w1", "w2")}
    controller.wait_for_workers(*workers)
    answer = controller.stream("one two", 60)
    next(answer)
    busy = eventually_sync(lambda: busy_worker(controller))
    workers[busy].kill()
    *_, before, last = answer
    assert last["text"] == echo_text("one two", 60)
    assert "worker" not in before
    assert (last["attempts"], last["worker"]) == (2, *(workers.keys() - {busy}))
    assert last["queue_time"] >= 0


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


def test_a_client_can_ask_for_a_repetition_where_the_worker_never_goes_on_by_itself(fleet: Fleet) -> None:
    controller, workers = start(fleet, "--resume", "never")
    chunks, comments = read(lines(controller, "text", {"X-Resume": "replay"}), workers)
    assert text_of(chunks) == TEXT
    assert any(comment.endswith(" attempts=2") for comment in comments)


def test_a_worker_that_never_goes_on_ends_the_answer_as_one_error_that_says_so(fleet: Fleet) -> None:
    controller, workers = start(fleet, "--resume", "never")
    chunks, _ = read(lines(controller, "text"), workers)
    assert chunks[-1]["error"]["code"] == "worker_lost"
    assert "cannot go on from the middle of this answer" in chunks[-1]["error"]["message"]


def text_of(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def start_one(fleet: Fleet) -> tuple[RunningController, Process]:
    controller = fleet.controller()
    worker = fleet.any_answer_worker("w1")
    controller.wait_for_workers("w1")
    return controller, worker


def replace(fleet: Fleet, worker: Process) -> None:
    worker.kill()
    fleet.any_answer_worker("w2")


def test_a_stream_of_llavas_protocol_goes_on_where_its_killed_worker_stopped(fleet: Fleet) -> None:
    controller, worker = start_one(fleet)
    parts = []
    for part in controller.stream("text", TOKENS):
        parts.append(part)
        if len(parts) == 15:
            replace(fleet, worker)
    texts = [part["text"] for part in parts]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert {part["error_code"] for part in parts} == {0}
    assert texts[-1] == TEXT


def test_a_whole_answer_of_llavas_protocol_has_each_word_once_though_its_worker_was_killed(fleet: Fleet) -> None:
    controller, worker = start_one(fleet)
    body = {"model": "m", "prompt": "text", "max_new_tokens": TOKENS, "echo": False}

    def has_a_part_of_it() -> bool:
        return bool(controller.get("/status")["streams"]["inflight_bytes"] > len(json.dumps(body)) + len(TEXT) / 4)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{controller.url}/worker_generate", json=body, timeout=60)
        eventually_sync(has_a_part_of_it)
        assert not asked.done()
        replace(fleet, worker)
        answer = asked.result()
    assert (answer.status_code, answer.json()["error_code"]) == (200, 0)
    assert answer.headers["x-attempts"] == "2"
    assert answer.json()["text"] == TEXT
    assert answer.json()["usage"]["completion_tokens"] == TOKENS
