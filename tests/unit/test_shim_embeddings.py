"""Functions that embed: what they may give, and what becomes of it."""

import asyncio
import base64
import json
import struct
from array import array
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind, Operation, Usage
from tests.unit.engine_runs import add, answer
from tests.unit.fake_stream import FakeStream, assignment
from workers_shim import Chunk, Embeddings, Request
from workers_shim.execution import EngineExecutor


async def embed(generate: Any, body: dict[str, Any] | None = None, **how: Any) -> FakeStream:
    executor = EngineExecutor()
    given = assignment(body=json.dumps({"input": ["a", "b"]} | (body or {})).encode(), operation=Operation.EMBEDDING)
    try:
        return await answer(executor, generate, given=given, abilities=("embedding",), **how)
    finally:
        assert await executor.aclose(10.0)


def payloads(stream: FakeStream) -> list[Any]:
    found = []
    for item in stream.items:
        assert isinstance(item, Chunk)
        assert item.payload is not None
        found.append(json.loads(item.payload))
    return found


def two(request: Request) -> Embeddings:
    return Embeddings([[0.1, -2], (3.0, 4.5)], prompt_tokens=5)


async def two_later(request: Request) -> Embeddings:
    await asyncio.sleep(0)
    return two(request)


def two_yielded(request: Request) -> Iterator[Embeddings]:
    yield two(request)


async def two_yielded_later(request: Request) -> AsyncIterator[Embeddings]:
    await asyncio.sleep(0)
    yield two(request)


@pytest.mark.parametrize(
    ("generate", "shared_loop"),
    [(two, False), (two_later, False), (two_later, True), (two_yielded, False), (two_yielded_later, True)],
)
async def test_vectors_are_returned_or_yielded_by_any_kind_of_function(generate: Any, shared_loop: bool) -> None:
    stream = await embed(generate, shared_loop=shared_loop)
    assert payloads(stream) == [
        {"object": "embedding", "index": 0, "embedding": [0.1, -2.0]},
        {"object": "embedding", "index": 1, "embedding": [3.0, 4.5]},
    ]
    assert stream.last_words == [("end", "stop", Usage(5, 0))]


async def test_base64_is_of_32_bit_floats_with_the_lowest_byte_first() -> None:
    stream = await embed(two, {"encoding_format": "base64"})
    encoded = [entry["embedding"] for entry in payloads(stream)]
    assert [struct.unpack("<2f", base64.b64decode(text)) for text in encoded] == [
        (pytest.approx(0.1, rel=1e-6), -2.0),
        (3.0, 4.5),
    ]


async def test_whatever_yields_numbers_is_a_vector() -> None:
    def generate(request: Request) -> Embeddings:
        return Embeddings(array("f", [number, 1.0]) for number in (0.5, 0.25))

    assert [entry["embedding"] for entry in payloads(await embed(generate))] == [[0.5, 1.0], [0.25, 1.0]]


async def test_a_slow_client_holds_the_vectors_back() -> None:
    executor, stream = EngineExecutor(), FakeStream(room=1)
    body = json.dumps({"input": ["a"] * 5}).encode()

    def generate(request: Request) -> Embeddings:
        return Embeddings([[1.0]] * len(request.inputs))

    add(executor, generate, abilities=("embedding",))
    executor.start(assignment(body=body, operation=Operation.EMBEDDING), stream)
    stream.wait_for_items(1)
    assert stream.offered_after_false == 0
    stream.make_room(10)
    await asyncio.to_thread(stream.wait_over)
    assert len(stream.items) == 5
    assert await executor.aclose(10.0)


@pytest.mark.parametrize(
    ("value", "inputs", "prompt"),
    [
        ("a", ["a"], "a"),
        (["a"], ["a"], "a"),
        (["a", "b"], ["a", "b"], None),
        ([1, 2], [[1, 2]], None),
        ([[1, 2], [3]], [[1, 2], [3]], None),
        ([{"image": "x"}], [], None),
    ],
)
async def test_a_function_sees_what_to_embed_as_one_list(value: Any, inputs: Any, prompt: str | None) -> None:
    seen: list[Request] = []

    def generate(request: Request) -> Embeddings:
        seen.append(request)
        return Embeddings([[1.0]] * len(inputs or value))

    stream = await embed(generate, {"input": value})
    assert (seen[0].inputs, seen[0].prompt) == (inputs, prompt)
    assert len(stream.items) == len(inputs or value)


async def test_an_engines_own_answer_is_passed_on() -> None:
    def generate(request: Request) -> Iterator[Chunk]:
        yield Chunk(payload=b'{ "data": [] }')
        yield Chunk(usage=Usage(3, 0))

    stream = await embed(generate)
    assert [item.payload for item in stream.items if isinstance(item, Chunk)] == [b'{ "data": [] }']
    assert stream.last_words == [("end", "stop", Usage(3, 0))]


@pytest.mark.parametrize(
    ("body", "given", "kind", "words"),
    [
        ({"encoding_format": "hex"}, two, FailureKind.REQUEST, "'encoding_format' has to be float or base64"),
        ({"dimensions": "3"}, two, FailureKind.REQUEST, "'dimensions' has to be a whole number"),
        ({"dimensions": 0}, two, FailureKind.REQUEST, "at least 1, not 0"),
        ({"input": [{}]}, lambda _: Embeddings([]), FailureKind.REQUEST, "'input' has to be a text, a list of texts"),
        ({"dimensions": 3}, two, FailureKind.REQUEST, "vectors of 2 dimensions, not of 3: leave 'dimensions' out"),
        ({"input": ["a"]}, two, FailureKind.ENGINE, "gave 2 embeddings, and was asked for 1"),
        ({"input": ["a"] * 2049}, two, FailureKind.REQUEST, "'input' has 2049 entries, 2048 can be taken"),
        ({}, lambda _: Embeddings([[1.0], [float("nan")]]), FailureKind.ENGINE, "a number that is not finite"),
        ({}, lambda _: iter(["text"]), FailureKind.ENGINE, "was asked for embeddings and gave a text"),
        ({}, lambda _: Embeddings([[1.0], ["x"]]), FailureKind.ENGINE, "TypeError"),  # type: ignore[list-item]
    ],
)
async def test_what_cannot_be_is_said_before_the_first_vector(
    body: Any, given: Any, kind: FailureKind, words: str
) -> None:
    stream = await embed(given, body)
    assert stream.items == []
    assert stream.failure[0] is kind
    assert words in stream.failure[1]


async def test_as_many_dimensions_as_were_asked_for_pass() -> None:
    assert len(payloads(await embed(two, {"dimensions": 2}))) == 2


async def test_embeddings_are_no_answer_to_a_chat() -> None:
    executor = EngineExecutor()
    stream = await answer(executor, two_yielded, given=assignment())
    assert stream.failure[0] is FailureKind.ENGINE
    assert "yielded a Embeddings" in stream.failure[1]
    assert await executor.aclose(10.0)
