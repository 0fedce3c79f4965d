"""The engine `openai` before a real server: llama.cpp's, with the small real model."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from broker_controller.amqp_probe import free_port
from broker_wire.messages import Answered, FailureKind, Operation, Question, QuestionKind
from tests.integration.llama_http import MODEL, QUESTION, LlamaServer, comparable, text_of
from tests.processes import Processes
from tests.unit.engine_runs import over
from tests.unit.fake_stream import PATIENCE, FakeStream, assignment
from tests.waiting import Eventually, eventually
from workers_shim import Chunk, Worker, cli
from workers_shim.engines.http_client import HttpClient, parse_url
from workers_shim.engines.openai import OpenAIServer
from workers_shim.engines.openai_models import Surveyor
from workers_shim.engines.openai_watch import Wanted
from workers_shim.execution import EngineExecutor

CHAT: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 0, "seed": 1, "max_tokens": 16}
STREAMED = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
ENDLESS = STREAMED | {"max_tokens": 1800, "ignore_eos": True}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    processes = Processes(tmp_path_factory.mktemp("llama"), quiet=True)
    try:
        yield LlamaServer(processes, free_port(), "--embeddings")
    finally:
        processes.end()


@pytest.fixture
async def executor(llama: LlamaServer) -> AsyncIterator[EngineExecutor]:
    worker = Worker("w")
    engine = OpenAIServer(parse_url(llama.url), keep=2)
    engine.register(worker, MODEL, abilities=("chat", "completion", "embedding"), context_length=None)
    yield worker.engines
    assert await worker.engines.aclose(PATIENCE)


def start(executor: EngineExecutor, body: dict[str, Any], operation: Operation = Operation.CHAT) -> FakeStream:
    stream = FakeStream()
    executor.start(assignment(MODEL, body=json.dumps(body).encode(), operation=operation), stream)
    return stream


async def answer(executor: EngineExecutor, body: dict[str, Any], operation: Operation = Operation.CHAT) -> list[bytes]:
    """The payloads of a complete answer."""
    stream = start(executor, body, operation)
    await over(stream)
    assert stream.last_words[0][0] == "end", stream.last_words
    return [item.payload for item in stream.items if isinstance(item, Chunk) and item.payload is not None]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"logprobs": True, "top_logprobs": 2},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, "max_tokens": 64},
        {"tools": [TOOL], "tool_choice": "required", "max_tokens": 64},
    ],
    ids=["plain", "logprobs", "schema", "tools"],
)
async def test_a_stream_is_byte_for_byte_what_the_server_gives(
    executor: EngineExecutor, llama: LlamaServer, fields: dict[str, Any]
) -> None:
    direct = await asyncio.to_thread(llama.stream, "/chat/completions", STREAMED | fields)
    ours = await answer(executor, STREAMED | fields)

    assert len(ours) > 3
    assert list(map(comparable, ours)) == list(map(comparable, direct))
    if "response_format" in fields:
        assert isinstance(json.loads(text_of(ours))["n"], int)


@pytest.mark.parametrize(
    ("path", "operation", "body"),
    [
        ("/chat/completions", Operation.CHAT, CHAT | {"logprobs": True, "top_logprobs": 2}),
        (
            "/completions",
            Operation.COMPLETION,
            {"model": MODEL, "prompt": "1, 2, 3,", "temperature": 0, "max_tokens": 4},
        ),
        ("/embeddings", Operation.EMBEDDING, {"model": MODEL, "input": ["gravity", "levity"]}),
    ],
)
async def test_a_whole_answer_is_byte_for_byte_what_the_server_gives(
    executor: EngineExecutor, llama: LlamaServer, path: str, operation: Operation, body: dict[str, Any]
) -> None:
    # The first one fills the server's cache: the second and third compute the same.
    await asyncio.to_thread(llama.ask, path, body)
    direct = await asyncio.to_thread(llama.ask, path, body)
    [ours] = await answer(executor, body, operation)

    assert comparable(ours) == comparable(direct)


async def test_llavas_client_gets_text_and_counts(executor: EngineExecutor) -> None:
    body = {"model": MODEL, "prompt": "1, 2, 3, 4, 5, 6,", "temperature": 0, "max_new_tokens": 6}
    stream = start(executor, body, Operation.LLAVA)
    await over(stream)

    assert stream.text.startswith(" 7, 8")
    assert all(isinstance(item, str) for item in stream.items)
    assert getattr(stream.last_words[0][2], "completion_tokens", None) == 6


async def test_a_cancel_frees_the_servers_slot(
    executor: EngineExecutor, llama: LlamaServer, eventually: Eventually
) -> None:
    stream = start(executor, ENDLESS)
    await eventually(lambda: llama.busy_slots() == 1)
    stream.cancel()
    await over(stream)
    await eventually(lambda: llama.busy_slots() == 0)


async def test_a_cancel_of_a_whole_answer_frees_the_slot_of_a_server_that_nobody_else_asks(
    executor: EngineExecutor, llama: LlamaServer, eventually: Eventually
) -> None:
    async def is_free() -> bool:
        # llama.cpp looks for clients that have left after a second in which it had nothing for anybody, and a question
        # is something.
        await asyncio.sleep(1.5)
        return llama.busy_slots() == 0

    stream = start(executor, ENDLESS | {"stream": False, "stream_options": None})
    await eventually(lambda: llama.busy_slots() == 1)
    stream.cancel()
    await over(stream)
    condition: Any = is_free
    await eventually(condition)


async def test_the_servers_own_words_reach_the_client_when_it_refuses(executor: EngineExecutor) -> None:
    stream = start(executor, CHAT | {"messages": [{"role": "user", "content": "gravity " * 3000}]})
    await over(stream)

    kind, message = stream.failure
    assert kind is FailureKind.REQUEST
    assert "exceeds the available context size" in message


def test_check_asks_a_real_server(
    llama: LlamaServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "log_to_stderr", lambda *_: None)
    command = ["check", "openai", "--url", llama.url, "--max-tokens", "8"]

    assert cli.main([*command, "--prompt", "Tell me about gravity."]) == 0
    assert "of the answer" in capsys.readouterr().out
    assert cli.main([*command, "--operation", "embedding"]) == 0
    assert "a vector of 576 numbers" in capsys.readouterr().out


async def test_the_server_counts_tokens_and_tells_its_template(llama: LlamaServer) -> None:
    client = HttpClient(parse_url(llama.url))
    survey = await Surveyor(client).look()
    client.close()
    [model] = [one for one in survey.models or () if one.counts]
    assert model.conversation is not None
    conversation = model.conversation
    # SmolLM2's template is ChatML with a system prompt of its own.
    assert conversation.roles == ("<|im_start|>user\n", "<|im_start|>assistant\n")
    prompt = conversation.system_template.format(system_message=conversation.system_message)
    prompt += f"{conversation.roles[0]}{QUESTION[0]['content']}{conversation.sep}{conversation.roles[1]}"

    worker = Worker("w")
    engine = OpenAIServer(parse_url(llama.url))
    offer = Wanted(None, ("chat", "completion")).offers(survey)[model.name]
    offer.register(worker, engine, MODEL)
    told: list[Answered] = []
    body = json.dumps({"model": MODEL, "prompt": prompt}).encode()
    worker.engines.ask(Question("c", 1, QuestionKind.COUNT_TOKENS, MODEL, 30.0, body), told.append)
    await eventually(lambda: told)
    [whole] = await answer(worker.engines, CHAT)
    assert await worker.engines.aclose(PATIENCE)

    assert json.loads(told[0].body)["count"] == json.loads(whole)["usage"]["prompt_tokens"]
