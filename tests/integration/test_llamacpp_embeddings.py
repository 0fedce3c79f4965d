"""The llama.cpp engine as a maker of vectors, with a real model."""

import base64
import json
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind
from tests.integration.llamacpp_runs import answer, load_engine, model_file, serving, usage_of
from tests.unit.fake_stream import FakeStream
from workers_shim import Worker
from workers_shim.engines import llamacpp_embeddings
from workers_shim.engines.llamacpp_embeddings import MAX_INPUTS, LlamaCppEmbeddings
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


def answer_of(stream: FakeStream) -> dict[str, Any]:
    assert stream.last_words[0][0] == "end", stream.last_words
    [item] = stream.items
    assert not isinstance(item, str)
    assert item.payload is not None
    whole: dict[str, Any] = json.loads(item.payload)
    return whole


async def vectors(executor: EngineExecutor, **body: Any) -> list[list[float]]:
    data = answer_of(await answer(executor, **body))["data"]
    assert [vector["index"] for vector in data] == list(range(len(data)))
    return [vector["embedding"] for vector in data]


def likeness(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_texts_of_like_meaning_have_like_vectors(executor: EngineExecutor) -> None:
    cat, kitten, tax = await vectors(executor, input=[CAT, KITTEN, TAX])

    assert likeness(cat, kitten) > likeness(cat, tax)
    assert math.isclose(likeness(cat, cat), 1.0, abs_tol=1e-3)


async def test_one_answer_has_openais_form_and_counts(executor: EngineExecutor) -> None:
    stream = await answer(executor, input=[CAT, TAX])
    whole = answer_of(stream)

    assert (whole["object"], whole["model"]) == ("list", "m")
    tokens = whole["usage"]["prompt_tokens"]
    assert whole["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (usage_of(stream).prompt_tokens, usage_of(stream).completion_tokens) == (tokens, 0)
    assert tokens > 12


async def test_a_text_has_the_same_vector_in_whatever_list(executor: EngineExecutor) -> None:
    [alone] = await vectors(executor, input=CAT)
    _, among = await vectors(executor, input=[TAX, CAT])

    assert likeness(alone, among) > 0.999


async def test_base64_carries_the_same_numbers(executor: EngineExecutor) -> None:
    [numbers] = await vectors(executor, input=CAT)
    [packed] = answer_of(await answer(executor, input=CAT, encoding_format="base64"))["data"]
    unpacked = struct.unpack(f"<{len(numbers)}f", base64.b64decode(packed["embedding"]))

    assert likeness(numbers, list(unpacked)) > 0.999


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
        ({"input": ["a"] * (MAX_INPUTS + 1)}, f"from 1 to {MAX_INPUTS} texts"),
        ({"input": ["a", {"b": 1}]}, "'input' has to be a text"),
        ({"input": [2**31 - 1]}, "invalid tokens"),
        ({"input": CAT, "dimensions": 8}, "'dimensions'"),
        ({"input": CAT, "encoding_format": 5}, "'encoding_format'"),
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
