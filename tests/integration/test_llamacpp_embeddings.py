"""The llama.cpp engine as a maker of vectors, with a real model."""

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind
from tests.integration.llamacpp_runs import answer, load_engine, model_file, serving, usage_of
from tests.unit.fake_stream import FakeStream
from workers_shim import Chunk, Worker
from workers_shim.engines import llamacpp_embeddings
from workers_shim.engines.llamacpp_embeddings import LlamaCppEmbeddings
from workers_shim.execution import EngineExecutor

CONTEXT = 256
CAT, KITTEN, TAX = "A cat sat on the mat.", "A kitten sat on the rug.", "Income tax is due in April; file form 1040."


@pytest.fixture(scope="module")
def engine() -> LlamaCppEmbeddings:
    return LlamaCppEmbeddings.load(model_file(), pooling="mean", context_length=CONTEXT)


@pytest.fixture
async def executor(engine: LlamaCppEmbeddings) -> AsyncIterator[EngineExecutor]:
    async with serving(engine, resume="replay") as executor:
        yield executor


def parts_of(stream: FakeStream) -> list[dict[str, Any]]:
    """OpenAI's objects, in their order."""
    assert stream.last_words[0][0] == "end", stream.last_words
    parts = [json.loads(item.payload) for item in stream.items if isinstance(item, Chunk) and item.payload is not None]
    assert [part["index"] for part in parts] == list(range(len(parts)))
    return parts


async def vectors(executor: EngineExecutor, **body: Any) -> list[list[float]]:
    return [part["embedding"] for part in parts_of(await answer(executor, **body))]


def likeness(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_texts_of_like_meaning_have_like_vectors(executor: EngineExecutor) -> None:
    cat, kitten, tax = await vectors(executor, input=[CAT, KITTEN, TAX])

    assert likeness(cat, kitten) > likeness(cat, tax)
    assert math.isclose(likeness(cat, cat), 1.0, abs_tol=1e-3)


async def test_the_tokens_of_all_texts_are_counted(executor: EngineExecutor) -> None:
    counts = [usage_of(await answer(executor, input=texts)) for texts in (CAT, TAX, [CAT, TAX])]
    cat, tax, both = [count.prompt_tokens for count in counts]

    assert both == cat + tax > 12


async def test_a_text_has_the_same_vector_in_whatever_list(executor: EngineExecutor) -> None:
    [alone] = await vectors(executor, input=CAT)
    _, among = await vectors(executor, input=[TAX, CAT])

    assert likeness(alone, among) > 0.999


async def test_token_numbers_are_taken_too(executor: EngineExecutor) -> None:
    [one] = await vectors(executor, input=[10, 11, 12])
    same, other = await vectors(executor, input=[[10, 11, 12], [20, 21]])

    assert likeness(one, same) > 0.999 > likeness(one, other)


async def test_a_text_as_long_as_the_context_is_read(executor: EngineExecutor) -> None:
    assert len(await vectors(executor, input="word " * (CONTEXT - 10))) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": [CAT, "word " * 2 * CONTEXT]}, "text 1 is too long: "),
        ({"input": [[5] * (CONTEXT + 1)]}, f"{CONTEXT + 1} tokens, the model takes {CONTEXT}"),
        ({"input": ["a", ""]}, "text 1 is empty"),
        ({"input": [2**31 - 1]}, "invalid tokens"),
        ({"input": CAT, "dimensions": 8}, "dimensions"),
        ({"prompt": "a"}, "makes vectors of texts"),
    ],
)
async def test_a_request_that_cannot_be_served_hears_why(
    executor: EngineExecutor, body: dict[str, Any], words: str
) -> None:
    kind, message = (await answer(executor, **body)).failure

    assert kind is FailureKind.REQUEST
    assert words in message


async def test_a_worker_that_writes_text_makes_no_vectors() -> None:
    async with serving(load_engine()) as executor:
        kind, message = (await answer(executor, input=CAT)).failure

    assert kind is FailureKind.REQUEST
    assert "--embeddings" in message


def test_the_worker_announces_vectors_only(engine: LlamaCppEmbeddings) -> None:
    worker = Worker()
    llamacpp_embeddings.register(worker, "m", engine)

    [card] = worker.models
    assert [str(ability) for ability in card.abilities] == ["embedding"]
    assert not card.streams


def test_a_model_that_does_not_say_its_pooling_has_to_be_told() -> None:
    with pytest.raises(ValueError, match="say --embeddings with one of mean, cls, last"):
        LlamaCppEmbeddings.load(model_file())
