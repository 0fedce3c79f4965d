"""Our controllers under FastChat's and above it, and its workers behind `workers-shim http`."""

from collections.abc import Callable

import httpx
import pytest
from openai import OpenAI

from tests.acceptance.fleet import Fleet, RunningController, echo_text
from tests.upstream.fastchat.model_worker_facts import CONTEXT_LENGTH
from tests.upstream.fastchat.programs import FastChat
from tests.upstream.programs import models_of, post
from tests.waiting import eventually_sync

VICUNA = "A chat between a curious user and an artificial intelligence assistant."


def completion(api_server: str, model: str, prompt: str, tokens: int) -> str:
    """A streamed one, by OpenAI's client."""
    with OpenAI(base_url=f"{api_server}/v1", api_key="none", max_retries=0, timeout=60) as client:
        chunks = client.completions.create(model=model, prompt=prompt, max_tokens=tokens, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)


def test_a_fleet_of_ours_is_a_worker_of_fastchats_controller(
    fleet: Fleet, fastchat: FastChat, hold_port: Callable[[], int]
) -> None:
    parent = fastchat.controller()
    fleet.worker("w1", "--slots", "4")
    port = hold_port()
    ours = f"http://localhost:{port}"
    child = fleet.controller("--parent", parent, "--public-url", ours, port=port)
    eventually_sync(lambda: models_of(parent) == ["m"])
    assert post(parent, "/get_worker_address", {"model": "m"}) == {"address": ours}

    # Its API server finds all that it asks of a worker.
    server = fastchat.api_server(parent)
    assert completion(server, "m", "one two", 5) == echo_text("one two", 5)
    refused = httpx.post(
        f"{server}/v1/completions", json={"model": "m", "prompt": "!error", "max_tokens": 0}, timeout=60
    )
    assert refused.status_code == 400

    # A model that comes later is told at once.
    fleet.worker("w2", model="other")
    eventually_sync(lambda: models_of(parent) == ["m", "other"])
    assert completion(server, "other", "three four", 3) == echo_text("three four", 3)

    # Killed, it is dropped when FastChat looks; started again, it is back by itself.
    child.process.kill()
    post(parent, "/refresh_all_workers")
    assert models_of(parent) == []
    fleet.controller("--parent", parent, "--public-url", ours, port=port)
    eventually_sync(lambda: models_of(parent) == ["m", "other"])
    assert completion(server, "m", "one two", 5) == echo_text("one two", 5)


class TheirFleet:
    """FastChat's controller with a worker, and ours."""

    def __init__(self, controller: str, worker: str, ours: RunningController) -> None:
        self.controller = controller
        self.worker = worker
        self.ours = ours


@pytest.fixture(scope="module")
def theirs(fleet: Fleet, fastchat: FastChat) -> TheirFleet:
    controller = fastchat.controller()
    worker, _ = fastchat.worker(controller, "bridged", "vicuna_v1.1")
    eventually_sync(lambda: models_of(controller) == ["bridged"])
    return TheirFleet(controller, worker, fleet.controller())


def test_fastchats_controller_is_a_worker_of_ours(theirs: TheirFleet) -> None:
    registration = {"worker_name": theirs.controller, "check_heart_beat": False}
    assert httpx.post(f"{theirs.ours.url}/register_worker", json=registration, timeout=60).status_code == 200
    eventually_sync(lambda: theirs.ours.workers().get(theirs.controller) == "ready")

    assert theirs.ours.generate("one two", 5, model="bridged")["text"] == echo_text("one two", 5)
    chat = theirs.ours.chat("And you?", 11, model="bridged")
    assert (chat.headers["x-worker"], chat.json()["choices"][0]["message"]["content"]) == (theirs.controller, VICUNA)
    failed = theirs.ours.chat("!error", 3, model="bridged")
    assert failed.status_code == 500
    assert "the tensor is too small" in failed.json()["error"]["message"]


def test_a_worker_of_fastchats_joins_from_behind_nat_with_all_that_it_can(fleet: Fleet, theirs: TheirFleet) -> None:
    ours = theirs.ours
    fleet.http_worker(theirs.worker, "behind-nat", "--model", "hidden=bridged")
    eventually_sync(lambda: ours.workers().get("behind-nat") == "ready", within=60)

    assert ours.generate("one two", 5, model="hidden")["text"] == echo_text("one two", 5)
    chat = ours.chat("And you?", 40, model="hidden")
    assert chat.json()["choices"][0]["message"]["content"].startswith(f"{VICUNA} The assistant gives helpful")
    assert "USER: And you? ASSISTANT:" in chat.json()["choices"][0]["message"]["content"]
    assert chat.json()["usage"]["completion_tokens"] == 40
    vectors = ours.post("/v1/embeddings", {"model": "hidden", "input": ["a", "bcd"]})["data"]
    assert [vector["embedding"] for vector in vectors] == [[1.0, 0.5], [3.0, 0.5]]
    assert ours.post("/count_token", {"model": "hidden", "prompt": "one two three"}) == {"count": 3, "error_code": 0}
    assert ours.post("/model_details", {"model": "hidden"}) == {"context_length": CONTEXT_LENGTH}
    conversation = ours.post("/worker_get_conv_template", {"model": "hidden"})["conv"]
    assert conversation == post(theirs.worker, "/worker_get_conv_template", {"model": "bridged"})["conv"]
    failed = ours.chat("!error", 3, model="hidden")
    assert "the tensor is too small" in failed.json()["error"]["message"]
