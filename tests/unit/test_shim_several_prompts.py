"""A completion of several prompts, by functions that take one and by those that take them all."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind, Had, Operation, Usage
from tests.unit.engine_runs import answer
from tests.unit.fake_stream import FakeStream, assignment
from workers_shim import Chunk, Request
from workers_shim.execution import EngineExecutor


async def complete(generate: Any, body: dict[str, Any], *, had: Any = None, **how: Any) -> FakeStream:
    executor = EngineExecutor()
    given = assignment(body=json.dumps(body).encode(), operation=Operation.COMPLETION, **(had or {}))
    try:
        return await answer(executor, generate, given=given, **how)
    finally:
        assert await executor.aclose(10.0)


def texts(stream: FakeStream) -> dict[int, str]:
    """By choice."""
    found: dict[int, str] = {}
    for item in stream.items:
        index, text = (0, item) if isinstance(item, str) else (item.index, item.text)
        found[index] = found.get(index, "") + text
    return found


def reasons(stream: FakeStream) -> dict[int, str]:
    return {item.index: item.finish_reason for item in stream.items if isinstance(item, Chunk) and item.finish_reason}


def shout(request: Request) -> Iterator[str | Chunk]:
    assert request.prompt is not None
    yield from request.prompt.upper()
    yield Chunk(finish_reason="length" if request.prompt == "bc" else None, usage=Usage(1, len(request.prompt)))


async def shout_later(request: Request) -> AsyncIterator[str | Chunk]:
    for item in shout(request):
        await asyncio.sleep(0)
        yield item


@pytest.mark.parametrize(("generate", "shared_loop"), [(shout, False), (shout_later, False), (shout_later, True)])
async def test_a_function_of_one_prompt_is_called_for_each(generate: Any, shared_loop: bool) -> None:
    stream = await complete(generate, {"prompt": ["a", "bc", "def"]}, shared_loop=shared_loop)
    assert texts(stream) == {0: "A", 1: "BC", 2: "DEF"}
    # That of the first is the answer's own.
    assert reasons(stream) == {1: "length", 2: "stop"}
    assert stream.last_words == [("end", "stop", Usage(3, 6))]


async def test_choices_are_numbered_over_prompts_and_n() -> None:
    def generate(request: Request) -> Iterator[Chunk]:
        for index in range(2):
            yield Chunk(f"{request.prompt}{index}", index=index)

    stream = await complete(generate, {"prompt": ["a", "b"], "n": 2})
    assert texts(stream) == {0: "a0", 1: "a1", 2: "b0", 3: "b1"}
    assert reasons(stream) == {1: "stop", 2: "stop", 3: "stop"}


async def test_each_call_sees_its_own_prompt_and_another_default_seed() -> None:
    seen: list[Request] = []

    def generate(request: Request) -> Iterator[str]:
        seen.append(request)
        yield "x"

    await complete(generate, {"prompt": [[1, 2], [3]], "best": 1})
    assert [(one.prompt, one.inputs, one.parameters) for one in seen] == [
        (None, [[1, 2]], {"prompt": [1, 2], "best": 1}),
        (None, [[3]], {"prompt": [3], "best": 1}),
    ]
    assert len({one.default_seed for one in seen}) == 2


async def test_a_function_that_takes_them_all_gets_the_list() -> None:
    def generate(request: Request) -> Iterator[str | Chunk]:
        assert request.prompt is None
        for index, prompt in enumerate(request.parameters["prompt"]):
            yield Chunk(prompt, index=index)

    assert texts(await complete(generate, {"prompt": ["a", "b"]}, many_prompts=True)) == {0: "a", 1: "b"}


async def test_an_engines_own_chunks_are_not_renumbered() -> None:
    def generate(request: Request) -> Iterator[Chunk]:
        yield Chunk(payload=b"{}")

    stream = await complete(generate, {"prompt": ["a", "b"]})
    assert stream.failure == (
        FailureKind.REQUEST,
        "'prompt' has to be one text: model 'm' does not take several at once",
    )


async def test_an_error_at_the_second_prompt_is_the_answers() -> None:
    def generate(request: Request) -> Iterator[str]:
        yield "x"
        if request.prompt == "b":
            raise RuntimeError("no b")

    stream = await complete(generate, {"prompt": ["a", "b", "c"]})
    assert texts(stream) == {0: "x", 1: "x"}
    assert "no b" in stream.failure[1]


async def test_every_call_is_closed_before_the_next() -> None:
    events: list[str] = []

    def generate(request: Request) -> Iterator[str]:
        try:
            events.append(f"begin {request.prompt}")
            yield "x"
        finally:
            events.append(f"end {request.prompt}")

    await complete(generate, {"prompt": ["a", "b"]})
    assert events == ["begin a", "end a", "begin b", "end b"]


async def test_what_another_worker_began_is_repeated() -> None:
    had = {"text": "A", "next_seq": 3, "choices": (Had(1, "B"),)}
    stream = await complete(shout, {"prompt": ["a", "bc"]}, had=had, resume=("prefix", "replay"))
    assert texts(stream) == {1: "C"}
    assert reasons(stream) == {1: "length"}


async def test_a_text_is_not_gone_on_with_where_it_is_one_of_several() -> None:
    stream = await complete(shout, {"prompt": ["a", "bc"]}, had={"text": "A"}, resume="prefix")
    assert stream.failure[0] is FailureKind.NOT_RESUMABLE
