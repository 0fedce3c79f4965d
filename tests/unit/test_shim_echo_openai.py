"""The engine without a model in the place of an OpenAI engine: what its clients' tests need of it."""

import asyncio
import base64
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind, Operation
from tests.unit.engine_runs import had_after, over
from tests.unit.fake_stream import PATIENCE, FakeStream, assignment
from workers_shim.engines.echo import Echo
from workers_shim.execution import EngineExecutor
from workers_shim.request import Chunk, Usage
from workers_shim.served_model import serve

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["city", "unit"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
ARGUMENTS = {"city": "", "unit": "celsius"}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": WEATHER["function"]["parameters"]}}  # type: ignore[index]


@pytest.fixture
async def executor() -> AsyncIterator[EngineExecutor]:
    executor = EngineExecutor()
    register(executor, Echo())
    yield executor
    assert await executor.aclose(PATIENCE)


def register(executor: EngineExecutor, echo: Echo) -> None:
    how = {"abilities": ["chat"], "context_length": None, "resume": "replay", "shared_loop": True}
    executor.add(serve("m", echo.generate, **how))  # type: ignore[arg-type]


async def ask(executor: EngineExecutor, given: Any) -> FakeStream:
    stream = FakeStream()
    executor.start(given, stream)
    await over(stream)
    return stream


def chat_body(prompt: Any = "one two three", **fields: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": prompt}], **fields}).encode()


async def chat(executor: EngineExecutor, prompt: Any = "one two three", **fields: Any) -> FakeStream:
    return await ask(executor, assignment(body=chat_body(prompt, **fields), operation=Operation.CHAT))


async def complete(executor: EngineExecutor, **fields: Any) -> FakeStream:
    body = json.dumps({"prompt": "one two three", **fields}).encode()
    return await ask(executor, assignment(body=body))


async def embed(executor: EngineExecutor, **fields: Any) -> FakeStream:
    return await ask(executor, assignment(body=json.dumps(fields).encode(), operation=Operation.EMBEDDING))


def vectors_of(stream: FakeStream) -> list[list[float]]:
    return [payload["embedding"] for payload in payloads_of(stream)]


def chunks_of(stream: FakeStream) -> list[Chunk]:
    return [item for item in stream.items if isinstance(item, Chunk)]


def payloads_of(stream: FakeStream) -> list[Any]:
    """The engine's own chunks; there are no others."""
    assert all(isinstance(item, Chunk) and item.payload for item in stream.items)
    return [json.loads(item.payload or b"") for item in chunks_of(stream)]


def deltas_of(stream: FakeStream, index: int = 0) -> list[Any]:
    choices = [choice for payload in payloads_of(stream) for choice in payload["choices"]]
    return [choice["delta"] for choice in choices if choice["index"] == index]


def calls_of(stream: FakeStream, index: int = 0) -> list[tuple[str, Any]]:
    """Put together as clients do it."""
    calls: dict[int, list[str]] = {}
    for delta in deltas_of(stream, index):
        for call in delta.get("tool_calls", ()):
            function = call["function"]
            known = calls.setdefault(call["index"], ["", ""])
            known[0] += function.get("name", "")
            known[1] += function["arguments"]
    return [(name, json.loads(arguments)) for name, arguments in calls.values()]


# --- texts


async def test_each_choice_begins_with_another_word(executor: EngineExecutor) -> None:
    stream = await chat(executor, n=3, max_tokens=2)

    texts = ["", "", ""]
    for item in stream.items:
        chunk = Chunk(item) if isinstance(item, str) else item
        texts[chunk.index] += chunk.text
    assert texts == ["one two", "two three", "three one"]
    assert [chunk.finish_reason for chunk in chunks_of(stream) if chunk.index == 2] == [None, None, "length"]
    assert stream.last_words == [("end", "length", Usage(3, 6))]


@pytest.mark.parametrize(
    "fields", [{"n": 1}, {"logprobs": False}, {"response_format": {"type": "text"}}, {"tools": []}, {"echo_engine": {}}]
)
async def test_what_asks_for_nothing_special_is_answered_as_without_it(
    executor: EngineExecutor, fields: dict[str, Any]
) -> None:
    plain = await chat(executor, max_tokens=7)

    stream = await chat(executor, max_tokens=7, **fields)

    assert (stream.items, stream.last_words) == (plain.items, plain.last_words)


async def test_a_chats_logprobs_are_its_tokens_with_other_words_beside_them(executor: EngineExecutor) -> None:
    stream = await chat(executor, logprobs=True, top_logprobs=2, max_tokens=2)

    [first, second] = [json.loads(chunk.logprobs)["content"] for chunk in chunks_of(stream)]
    assert first[0]["token"] == "one"
    assert first[0]["bytes"] == list(b"one")
    assert [entry["token"] for entry in second[0]["top_logprobs"]] == [" two", " one"]


async def test_a_completions_logprobs_are_lists(executor: EngineExecutor) -> None:
    stream = await complete(executor, logprobs=1, max_tokens=2)

    logprobs = [json.loads(chunk.logprobs) for chunk in chunks_of(stream)]
    assert logprobs == [
        {"tokens": ["one"], "token_logprobs": [-0.5], "top_logprobs": [{"one": -0.5}], "text_offset": [0]},
        {"tokens": [" two"], "token_logprobs": [-0.5], "top_logprobs": [{" two": -0.5}], "text_offset": [3]},
    ]


async def test_the_answer_keeps_to_a_schema_and_comes_in_pieces(executor: EngineExecutor) -> None:
    stream = await chat(executor, response_format=SCHEMA)

    assert json.loads(stream.text) == ARGUMENTS
    assert len(stream.items) > 3
    assert stream.last_words == [("end", "stop", Usage(3, len(stream.items)))]


async def test_json_that_its_limit_ends_says_so(executor: EngineExecutor) -> None:
    stream = await chat(executor, response_format=SCHEMA, max_tokens=2)

    assert len(stream.text) == 8
    assert stream.last_words == [("end", "length", Usage(3, 2))]


async def test_images_have_a_word_each_that_says_what_has_arrived(executor: EngineExecutor) -> None:
    data = base64.b64encode(bytes(100)).decode()
    parts = [
        {"type": "text", "text": "see:"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image_url", "image_url": {"url": "https://a/b"}},
    ]

    stream = await chat(executor, parts, max_tokens=3)

    assert stream.text == "see: [image/png:100-bytes] [image:11-characters]"


# --- tools


@pytest.mark.parametrize(
    ("prompt", "fields", "names"),
    [
        ("call get_weather, please", {}, ["get_weather"]),
        ("get_time and get_weather!", {}, ["get_weather", "get_time"]),
        ("get_time and get_weather!", {"parallel_tool_calls": False}, ["get_weather"]),
        ("anything", {"tool_choice": "required"}, ["get_weather"]),
        ("get_time", {"tool_choice": "required"}, ["get_time"]),
        ("get_time", {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, ["get_weather"]),
    ],
)
async def test_tools_are_called_by_name_with_arguments_in_pieces(
    executor: EngineExecutor, prompt: str, fields: dict[str, Any], names: list[str]
) -> None:
    stream = await chat(executor, prompt, tools=[WEATHER, TIME], **fields)

    arguments = {"get_weather": ARGUMENTS, "get_time": {}}
    assert calls_of(stream) == [(name, arguments[name]) for name in names]
    assert stream.text == ""
    assert stream.last_words[0][1] == "tool_calls"
    if "get_weather" in names:
        assert len(stream.items) > 5


@pytest.mark.parametrize("fields", [{}, {"tool_choice": "auto"}, {"tool_choice": "none"}])
async def test_without_a_reason_to_call_one_the_words_are_repeated(
    executor: EngineExecutor, fields: dict[str, Any]
) -> None:
    prompt = "get_weather" if fields.get("tool_choice") == "none" else "no call"
    stream = await chat(executor, prompt, tools=[WEATHER], max_tokens=2, **fields)

    assert stream.text.split()[0] == prompt.split()[0]


async def test_ids_of_calls_differ(executor: EngineExecutor) -> None:
    stream = await chat(executor, "get_weather get_time", tools=[WEATHER, TIME], n=2)

    ids = [call["id"] for index in (0, 1) for delta in deltas_of(stream, index) for call in delta.get("tool_calls", ()) if "id" in call]  # fmt: skip  # noqa: E501
    assert len(set(ids)) == len(ids) == 4


async def test_the_usage_comes_as_a_chunk_where_the_client_asks_for_it(executor: EngineExecutor) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    stream = await chat(executor, "get_time", tools=[TIME], **options)

    last = payloads_of(stream)[-1]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert stream.last_words == [("end", "tool_calls", Usage(1, 2))]


async def test_reasoning_comes_before_the_answer(executor: EngineExecutor) -> None:
    stream = await chat(executor, echo_engine={"reasoning": 2}, max_tokens=4)

    deltas = deltas_of(stream)
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["one", " two"]
    assert [delta["content"] for delta in deltas if delta.get("content")] == ["one", " two"]
    assert stream.text == "one two", "for clients of LLaVA's protocol"
    assert stream.last_words == [("end", "length", Usage(3, 4))]


# --- embeddings


async def test_a_text_has_a_vector_of_length_one_and_another_text_another(executor: EngineExecutor) -> None:
    stream = await embed(executor, input=["a b", "c", "a b"], dimensions=8)

    one, two, three = vectors_of(stream)
    assert math.isclose(sum(number * number for number in one), 1.0)
    assert one == three != two
    assert (len(one), stream.last_words) == (8, [("end", "stop", Usage(5, 0))])


async def test_tokens_are_embedded_too(executor: EngineExecutor) -> None:
    assert len(vectors_of(await embed(executor, input=[1, 2]))) == 1
    assert len(vectors_of(await embed(executor, input=[[1], [2]]))) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [1, "a"]},
        {"input": "a", "dimensions": 0},
        {"input": ["a"] * 2048, "dimensions": 4096},
        {"input": "a", "encoding_format": "x"},
    ],
)
async def test_an_embedding_that_cannot_be_is_the_requests_fault(
    executor: EngineExecutor, fields: dict[str, Any]
) -> None:
    given = assignment(body=json.dumps(fields).encode(), operation=Operation.EMBEDDING)

    assert (await ask(executor, given)).failure[0] is FailureKind.REQUEST


# --- failures on demand


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("request", FailureKind.REQUEST),
        ("engine", FailureKind.ENGINE),
        ("unavailable", FailureKind.NOT_SERVED),
        ("lost", FailureKind.LOST),
    ],
)
@pytest.mark.parametrize("after", [0, 3])
async def test_an_answer_fails_as_its_client_asks(
    executor: EngineExecutor, error: str, kind: FailureKind, after: int
) -> None:
    stream = await complete(executor, echo_engine={"fail_after": after, "error": error})

    assert stream.failure[0] is kind
    assert len(stream.items) == after


async def test_an_answer_that_is_shorter_fails_at_its_end(executor: EngineExecutor) -> None:
    stream = await complete(executor, max_tokens=2, echo_engine={"fail_after": 99})

    assert stream.text == "one two"
    assert stream.failure[0] is FailureKind.ENGINE


async def test_an_answer_begins_late_and_is_slower_where_its_client_asks(executor: EngineExecutor) -> None:
    began = time.monotonic()
    stream = await complete(executor, max_tokens=3, echo_engine={"delay": 0.2, "tokens_per_second": 20})

    assert time.monotonic() - began >= 0.2 + 2 / 20
    assert stream.text == "one two three"


async def test_a_client_cannot_have_it_faster_than_the_worker_gives_it(executor: EngineExecutor) -> None:
    register(executor, Echo(tokens_per_second=20))
    began = time.monotonic()
    await complete(executor, max_tokens=3, echo_engine={"tokens_per_second": 1e6})

    assert time.monotonic() - began >= 2 / 20


async def test_a_cancel_ends_a_delay(executor: EngineExecutor) -> None:
    stream = FakeStream()
    executor.start(assignment(body=b'{"prompt": "a", "echo_engine": {"delay": 3600}}'), stream)
    stream.cancel()

    await over(stream)


async def test_a_worker_that_may_not_be_killed_says_so(executor: EngineExecutor) -> None:
    stream = await complete(executor, echo_engine={"die_after": 0})

    assert stream.failure[0] is FailureKind.REQUEST
    assert "--allow-kill" in stream.failure[1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n": 0}, "'n'"),
        ({"n": 129}, "'n'"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
        ({"response_format": {"type": "xml"}}, "'response_format'"),
        ({"tools": "get_time"}, "'tools'"),
        ({"tools": [TIME] * 129}, "129"),
        ({"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "'x'"),
        ({"tools": [], "tool_choice": "required"}, "no tools"),
        ({"tools": [TIME], "tool_choice": "perhaps"}, "'tool_choice'"),
        ({"echo_engine": 7}, "'echo_engine'"),
        ({"echo_engine": {"fail": 1}}, "fail"),
        ({"echo_engine": {"error": "some"}}, "error"),
        ({"echo_engine": {"delay": -1}}, "delay"),
        ({"echo_engine": {"tokens_per_second": 0}}, "tokens_per_second"),
    ],
)
async def test_a_wish_that_cannot_be_is_the_requests_fault(
    executor: EngineExecutor, fields: dict[str, Any], words: str
) -> None:
    kind, message = (await chat(executor, **fields)).failure

    assert kind is FailureKind.REQUEST
    assert words in message


# --- moves


@pytest.mark.parametrize(
    "body",
    [
        chat_body(n=3, max_tokens=4),
        chat_body(logprobs=True, top_logprobs=1, max_tokens=4),
        chat_body(n=2, logprobs=True, max_tokens=3),
        chat_body(response_format=SCHEMA),
        chat_body("get_weather get_time", tools=[WEATHER, TIME]),
        chat_body("get_time", tools=[TIME], n=2, stream=True, stream_options={"include_usage": True}),
        chat_body(echo_engine={"reasoning": 3}, max_tokens=6),
    ],
    ids=["n", "logprobs", "n and logprobs", "json", "tools", "n and tools", "reasoning"],
)
async def test_an_answer_of_any_form_that_moved_is_the_same(
    executor: EngineExecutor, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await ask(executor, assignment(body=body, operation=Operation.CHAT))
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 1000)

    for had in range(1, len(whole.items)):
        known = had_after(whole.items[:had])
        given = assignment(body=body, operation=Operation.CHAT, text=known.text, choices=known.choices)
        rest = await ask(executor, given)

        assert shown([*whole.items[:had], *rest.items]) == shown(whole.items)
        assert rest.last_words == whole.last_words


def shown(items: list[str | Chunk]) -> list[Any]:
    """What a client has, less what differs between two answers."""
    seen = []
    for item in items:
        chunk = Chunk(item) if isinstance(item, str) else item
        payload = json.loads(chunk.payload) if chunk.payload else {}
        payload.pop("created", None)
        seen.append((chunk.index, chunk.text, chunk.logprobs, chunk.finish_reason, payload))
    return seen


async def test_many_choices_of_a_long_prompt_take_turns_with_other_streams(executor: EngineExecutor) -> None:
    long = FakeStream()
    body = chat_body("word " * 50_000, n=128, max_tokens=200)
    executor.start(assignment(body=body, operation=Operation.CHAT), long)
    short = await complete(executor, max_tokens=2)

    assert short.text == "one two"
    long.cancel()
    await asyncio.to_thread(long.wait_over)
