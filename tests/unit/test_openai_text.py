"""Tokens and templates of servers behind `openai`: vLLM's and llama-server's words, and servers that have none."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from broker_wire.messages import Answered, FailureKind, Question, QuestionKind
from tests.unit import odd_http
from tests.unit.odd_http import Asked, OddServer, odd_server, whole
from tests.waiting import eventually
from workers_shim import Worker
from workers_shim.conversation import SAMPLES, Conversation
from workers_shim.engines import openai_text
from workers_shim.engines.http_client import HttpClient, parse_url
from workers_shim.engines.openai import OpenAIServer
from workers_shim.engines.openai_models import Surveyor


def answers(body: bytes, status: str = "200 OK") -> odd_http.Answer:
    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(body, status))

    return answer


async def count(server: OddServer, body: Any) -> Answered:
    """What the worker answers to a question for a model that the server calls `theirs`."""
    worker = Worker("w")
    engine = OpenAIServer(parse_url(server.url), upstream_names={"ours": "theirs"})
    engine.register(worker, "ours", abilities=("chat",), context_length=None, counts=True)
    told: list[Answered] = []
    question = Question("c", 1, QuestionKind.COUNT_TOKENS, "ours", 30.0, json.dumps(body).encode())
    worker.engines.ask(question, told.append)
    await eventually(lambda: told)
    assert await worker.engines.aclose(10.0)
    return told[0]


async def test_the_server_counts_by_its_own_name_of_the_model() -> None:
    async with odd_server(answers(b'{"count":3,"max_model_len":9,"tokens":[1,2,3]}')) as server:
        answered = await count(server, {"model": "ours", "prompt": "one two three"})

    assert json.loads(answered.body) == {"count": 3, "error_code": 0}
    [asked] = server.asked
    assert (asked.method, asked.path) == ("POST", "/tokenize")
    body = json.loads(asked.body)
    assert (body["model"], body["prompt"], body["content"]) == ("theirs", "one two three", "one two three")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (answers(b"{}", "404 Not Found"), "HTTP 404"),
        (answers(b"{}"), "does not count"),
        (answers(b"\xff"), "does not count"),
        (answers(b'{"tokens": 3}'), "does not count"),
        (odd_http.never, "in time"),
    ],
)
async def test_a_server_that_does_not_count_is_no_answer(
    answer: odd_http.Answer, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_text, "TIMEOUT", 0.3)
    async with odd_server(answer) as server:
        answered = await count(server, {"prompt": "x"})

    assert answered.failure is FailureKind.NOT_SERVED
    assert words in answered.message


async def test_a_question_without_a_text_is_its_askers_fault() -> None:
    async with odd_server(answers(b"{}")) as server:
        answered = await count(server, {"model": "ours"})

    assert answered.failure is FailureKind.REQUEST
    assert not server.asked


def written(messages: list[dict[str, str]]) -> str:
    """ChatML, with a system prompt of its own."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": "Be kind."}, *messages]
    turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


@contextlib.asynccontextmanager
async def llama_server(template: Callable[[Any], bytes | None]) -> AsyncIterator[tuple[OddServer, Surveyor]]:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        pages: dict[str, bytes | None] = {
            "/health": b"{}",
            "/props": b"{}",
            "/v1/models": b'{"data":[{"id":"g","owned_by":"llamacpp"}]}',
        }
        if asked.path == "/apply-template":
            pages[asked.path] = template(json.loads(asked.body)["messages"])
        body = pages.get(asked.path)
        writer.write(whole(b"{}", "404 Not Found") if body is None else whole(body))

    async with odd_server(answer) as server:
        client = HttpClient(parse_url(server.url))
        yield server, Surveyor(client)
        client.close()


def asked_for(server: OddServer) -> int:
    return sum(asked.path == "/apply-template" for asked in server.asked)


async def test_a_template_is_asked_for_once_and_has_fastchats_form() -> None:
    async with llama_server(lambda messages: json.dumps({"prompt": written(messages)}).encode()) as (server, surveyor):
        surveys = [await surveyor.look() for _ in range(2)]
        asked = asked_for(server)

    [model] = surveys[0].models or ()
    assert isinstance(model.conversation, Conversation)
    assert (model.conversation.roles[0], model.conversation.system_message) == ("<|im_start|>user\n", "Be kind.")
    assert surveys[0] == surveys[1]
    assert asked == len(SAMPLES)


@pytest.mark.parametrize("answer", [None, b"no JSON", b"{}", b'{"prompt": "always the same"}'])
async def test_a_server_that_tells_no_template_is_served_without(answer: bytes | None) -> None:
    async with llama_server(lambda _: answer) as (_, surveyor):
        survey = await surveyor.look()

    [model] = survey.models or ()
    assert (model.name, model.counts, model.conversation) == ("g", True, None)
