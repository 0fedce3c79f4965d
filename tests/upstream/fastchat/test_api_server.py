"""FastChat's OpenAI server in front of our controller, with workers of every kind behind it."""

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from tests.acceptance.fleet import Fleet, RunningController, echo_text
from tests.processes import Processes
from tests.upstream.fastchat.model_worker_facts import CONTEXT_LENGTH
from tests.upstream.fastchat.programs import FastChat
from tests.upstream.programs import HAS_LLAMACPP
from tests.waiting import eventually_sync

ECHOES = ["echo", "bridged"]
"""Models that repeat the prompt's words: one of ours, and a FastChat worker's."""
REAL = "smollm2"
BEHIND = "smollm2-behind"
"""The same model behind llama.cpp's own HTTP server, by the engine `openai`."""
NEEDS_LLAMACPP = pytest.mark.skipif(not HAS_LLAMACPP, reason="llama.cpp or the small model is not installed")


class Server:
    """FastChat's server, and the controller behind it."""

    def __init__(self, url: str, controller: RunningController) -> None:
        self.url = url
        self.controller = controller
        self.client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        response = httpx.post(f"{self.url}{path}", json=body, timeout=60)
        assert response.status_code == 200, response.text
        return response.json()

    def events(self, path: str, body: dict[str, Any]) -> list[Any]:
        response = httpx.post(f"{self.url}{path}", json=body | {"stream": True}, timeout=60)
        assert response.status_code == 200, response.text
        events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
        assert events.pop() == "[DONE]"
        return [json.loads(event) for event in events]


@pytest.fixture(scope="module", params=["queue", "shortest_queue"])
def server(
    request: pytest.FixtureRequest,
    fleet: Fleet,
    fastchat: FastChat,
    programs: Processes,
    hold_port: Callable[[], int],
) -> Server:
    controller = fleet.controller("--dispatch-method", request.param)
    if request.param == "queue":
        fleet.worker("w-echo", model="echo")
        if HAS_LLAMACPP:
            fleet.llamacpp_worker(REAL, "--context-length", "512")
            # It skips whoever imports it where there is no llama.cpp.
            from tests.integration.llama_http import MODEL, LlamaServer

            llama = LlamaServer(programs, hold_port())
            fleet.openai_engine_worker(llama.url, "--model", f"{BEHIND}={MODEL}")
    fastchat.worker(controller.url, "bridged", "vicuna_v1.1")
    wanted = {"echo", "bridged"} | ({REAL, BEHIND} if HAS_LLAMACPP else set())
    eventually_sync(lambda: set(controller.post("/list_models")["models"]) == wanted)
    return Server(fastchat.api_server(controller.url), controller)


def chat(model: str, text: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def test_models_are_listed(server: Server) -> None:
    models = httpx.get(f"{server.url}/v1/models", timeout=60).json()

    assert {"echo", "bridged"} <= {model["id"] for model in models["data"]}


@pytest.mark.parametrize("model", ECHOES)
def test_a_completion_comes_whole(server: Server, model: str) -> None:
    answer = server.post("/v1/completions", {"model": model, "prompt": "one two", "max_tokens": 5})

    assert answer["choices"][0]["text"] == echo_text("one two", 5)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}


@pytest.mark.parametrize("model", ECHOES)
def test_a_completion_streams(server: Server, model: str) -> None:
    events = server.events("/v1/completions", {"model": model, "prompt": "one two", "max_tokens": 50})

    assert "".join(event["choices"][0]["text"] for event in events) == echo_text("one two", 50)
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_a_chat_with_a_worker_of_ours_comes_whole_and_as_a_stream(server: Server) -> None:
    answer = server.post("/v1/chat/completions", chat("echo", "one two", max_tokens=5))
    events = server.events("/v1/chat/completions", chat("echo", "one two", max_tokens=5))

    assert answer["choices"][0]["message"] == {"role": "assistant", "content": echo_text("one two", 5)}
    assert answer["usage"]["prompt_tokens"] == 2
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == echo_text("one two", 5)


def test_a_chat_with_a_bridged_worker_is_written_by_its_template_here_and_there(server: Server) -> None:
    asked = chat("bridged", "And you?", max_tokens=40)
    events = server.events("/v1/chat/completions", asked)
    theirs = server.post("/v1/chat/completions", asked)
    ours = server.controller.post("/v1/chat/completions", asked)

    text = theirs["choices"][0]["message"]["content"]
    assert text.startswith("A chat between a curious user and an artificial intelligence assistant.")
    assert "USER: And you? ASSISTANT:" in text
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == text
    assert ours["choices"][0]["message"]["content"] == text
    assert ours["usage"] == theirs["usage"]


@pytest.mark.parametrize("model", [*ECHOES, *(pytest.param(model, marks=NEEDS_LLAMACPP) for model in (REAL, BEHIND))])
def test_openais_client_streams_a_chat_from_every_kind_of_worker(server: Server, model: str) -> None:
    def ask(*, stream: bool) -> Any:
        return server.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Tell me about gravity."}],
            temperature=0,
            max_tokens=20,
            stream=stream,
        )

    chunks = list(ask(stream=True))
    whole = ask(stream=False)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert len(text.split()) > 3
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens > 0


def test_openais_client_has_models_completions_embeddings_and_errors_of_them(server: Server) -> None:
    client = server.client
    assert {"echo", "bridged"} <= {model.id for model in client.models.list()}
    deltas = client.completions.create(model="echo", prompt="one two", max_tokens=5, stream=True)
    assert "".join(chunk.choices[0].text for chunk in deltas) == echo_text("one two", 5)
    vectors = client.embeddings.create(model="bridged", input=["a", "b"], encoding_format="float").data
    assert [len(vector.embedding) > 1 for vector in vectors] == [True, True]
    with pytest.raises(BadRequestError, match=r"Only .* allowed"):
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])


@NEEDS_LLAMACPP
@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Tell me about gravity."}],
        [
            {"role": "system", "content": "You are a pirate."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Arr!"},
            {"role": "user", "content": "Who are you?"},
        ],
    ],
)
def test_a_real_model_answers_a_chat_the_same_by_either_server(server: Server, messages: list[dict[str, str]]) -> None:
    asked = {"model": REAL, "messages": messages, "temperature": 0, "max_tokens": 12}
    theirs = server.post("/v1/chat/completions", asked)
    events = server.events("/v1/chat/completions", asked)
    ours = server.controller.post("/v1/chat/completions", asked)

    text = theirs["choices"][0]["message"]["content"]
    assert len(text.split()) > 3
    assert text == ours["choices"][0]["message"]["content"]
    assert theirs["usage"] == ours["usage"]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == text


@NEEDS_LLAMACPP
def test_what_is_longer_than_the_models_context_is_refused_by_the_count(server: Server) -> None:
    body = {"model": REAL, "prompt": "word " * 600, "max_tokens": 5}
    refused = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)

    assert refused.status_code == 400
    assert refused.json()["code"] == 40303
    assert "maximum context length is 512 tokens" in refused.json()["message"]


TEXTS = ["one", "two words", "three", "four", "fifth"]
"""More than the four that FastChat asks for at a time."""


def test_embeddings_of_a_worker_of_ours_are_those_of_v1(server: Server) -> None:
    theirs = server.post("/v1/embeddings", {"model": "echo", "input": TEXTS})
    ours = server.controller.post("/v1/embeddings", {"model": "echo", "input": TEXTS})

    assert theirs["data"] == ours["data"]
    assert theirs["usage"]["prompt_tokens"] == ours["usage"]["prompt_tokens"] == 6


def test_embeddings_of_a_bridged_worker_come_as_numbers_and_as_base64_here_and_there(server: Server) -> None:
    theirs = server.post("/v1/embeddings", {"model": "bridged", "input": TEXTS})
    ours = server.controller.post("/v1/embeddings", {"model": "bridged", "input": TEXTS})
    packed = {"model": "bridged", "input": "one", "encoding_format": "base64"}

    assert [each["embedding"] for each in theirs["data"]] == [[float(len(text)), 0.5] for text in TEXTS]
    assert theirs["data"] == ours["data"]
    assert theirs["usage"]["prompt_tokens"] == ours["usage"]["prompt_tokens"] == 6
    for answer in (server.post("/v1/embeddings", packed), server.controller.post("/v1/embeddings", packed)):
        assert struct.unpack("<2f", base64.b64decode(answer["data"][0]["embedding"])) == (3.0, 0.5)


def test_prompts_are_checked_for_their_length(server: Server) -> None:
    prompts = [
        {"model": "echo", "prompt": "a b c", "max_tokens": 10},
        {"model": "bridged", "prompt": "a b", "max_tokens": CONTEXT_LENGTH},
    ]
    checked = server.post("/api/v1/token_check", {"prompts": prompts})["prompts"]

    assert [(item["fits"], item["tokenCount"]) for item in checked] == [(True, 3), (False, 2)]
    assert checked[1]["contextLength"] == CONTEXT_LENGTH


def test_an_error_of_the_model_is_told_as_one(server: Server) -> None:
    body = {"model": "bridged", "prompt": "say !error now", "max_tokens": 5}
    refused = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)

    assert refused.status_code == 400
    assert "the tensor is too small" in refused.json()["message"]
