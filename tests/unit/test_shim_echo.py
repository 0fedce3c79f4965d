"""The engine without a model: every answer can be foretold."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker_wire.messages import Operation
from tests.unit.fake_stream import PATIENCE, FakeStream, assignment
from workers_shim.engines.echo import Echo
from workers_shim.engines.echo_words import DEFAULT_MAX_TOKENS
from workers_shim.execution import EngineExecutor
from workers_shim.request import Chunk, Request, RequestError, Usage
from workers_shim.served_model import serve


async def answer(request: Request, echo: Echo | None = None) -> list[str | Chunk]:
    return [item async for item in (echo or Echo()).generate(request) if isinstance(item, str | Chunk)]


@pytest.fixture
async def executor() -> AsyncIterator[EngineExecutor]:
    executor = EngineExecutor()
    yield executor
    assert await executor.aclose(PATIENCE)


def register(executor: EngineExecutor, echo: Echo) -> None:
    how = {"abilities": ["completion"], "context_length": None, "resume": "replay", "shared_loop": True}
    executor.add(serve("m", echo.generate, **how))  # type: ignore[arg-type]


async def test_chunk_i_is_word_i_modulo_the_number_of_words() -> None:
    items = await answer(Request(model="m", prompt=" one  two\nthree ", max_tokens=7))

    assert items == [
        "one", " two", " three", " one", " two", " three", " one",
        Chunk(finish_reason="length", usage=Usage(3, 7)),
    ]  # fmt: skip


@pytest.mark.parametrize(("max_tokens", "text"), [(0, ""), (1, "a"), (3, "a a a")])
async def test_one_word_goes_round_alone(max_tokens: int, text: str) -> None:
    items = await answer(Request(model="m", prompt="a", max_tokens=max_tokens))

    assert "".join(item for item in items if isinstance(item, str)) == text


async def test_without_a_limit_it_sends_the_default_number() -> None:
    items = await answer(Request(model="m", prompt="a b"))

    assert items[-1] == Chunk(finish_reason="length", usage=Usage(2, DEFAULT_MAX_TOKENS))
    assert len(items) == DEFAULT_MAX_TOKENS + 1


async def test_of_a_chat_it_repeats_the_last_user_message() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": [{"type": "text", "text": "last one"}, {"type": "image_url", "image_url": "x"}]},
        {"role": "assistant", "content": "begun"},
    ]
    items = await answer(Request(model="m", operation=Operation.CHAT, messages=messages, max_tokens=2))

    assert items[:2] == ["last", " one"]


@pytest.mark.parametrize(
    "request_",
    [
        Request(model="m", prompt=" \n"),
        Request(model="m", prompt=None),
        Request(model="m", messages=[{"role": "user", "content": None}]),
        Request(model="m", messages=[{"role": "system", "content": "be kind"}]),
    ],
)
async def test_nothing_to_repeat_is_the_requests_fault(request_: Request) -> None:
    with pytest.raises(RequestError):
        await answer(request_)


async def test_a_thousand_paced_streams_keep_their_pace_on_one_thread(executor: EngineExecutor) -> None:
    register(executor, Echo(tokens_per_second=20))
    body = b'{"prompt": "one two three", "max_tokens": 11}'
    streams = [FakeStream() for _ in range(1000)]
    began = time.monotonic()
    for stream in streams:
        executor.start(assignment(body=body), stream)
    for stream in streams:
        await asyncio.to_thread(stream.wait_over)
    seconds = time.monotonic() - began

    # Ten intervals of 50 ms: never sooner; one after the other they would take 500 s.
    assert 0.5 <= seconds < 20
    assert all(len(stream.items) == 11 for stream in streams)


async def test_an_answer_that_moved_is_the_same_to_the_byte(executor: EngineExecutor) -> None:
    register(executor, Echo())
    body = b'{"prompt": "one two three", "max_tokens": 20}'
    whole = FakeStream()
    executor.start(assignment(body=body), whole)
    await asyncio.to_thread(whole.wait_over)

    for had in range(1, len(whole.text)):
        rest = FakeStream()
        executor.start(assignment(body=body, text=whole.text[:had]), rest)
        await asyncio.to_thread(rest.wait_over)
        assert whole.text[:had] + rest.text == whole.text
        assert rest.last_words == whole.last_words


@pytest.mark.parametrize("pace", [0.0, -1.0, float("nan")])
def test_a_pace_has_to_be_more_than_nothing(pace: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Echo(pace)
