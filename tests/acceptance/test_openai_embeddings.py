"""Embeddings by OpenAI's own library, which asks for base64 if it is told nothing else."""

import base64
import struct
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.acceptance.fleet import RunningController


@pytest.mark.parametrize(
    ("given", "vectors"),
    [
        ("four", [[4.0, 0.0]]),
        (["a", "bcd"], [[1.0, 0.0], [3.0, 0.25]]),
        ([5, 6, 7], [[3.0, 0.0]]),
        ([[5], [6, 7]], [[1.0, 0.0], [2.0, 0.25]]),
    ],
)
@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}])
def test_each_input_has_its_vector(client: OpenAI, given: Any, vectors: Any, encoding: Any) -> None:
    answer = client.embeddings.create(model="embedder", input=given, **encoding)
    assert [one.embedding for one in answer.data] == vectors
    assert [one.index for one in answer.data] == list(range(len(vectors)))
    assert (answer.object, answer.model) == ("list", "embedder")
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(vector[0] for vector in vectors)


def test_base64_as_it_is(client: OpenAI) -> None:
    answer = client.embeddings.create(model="embedder", input="four", encoding_format="base64")
    encoded: Any = answer.data[0].embedding
    assert struct.unpack("<2f", base64.b64decode(encoded)) == (4.0, 0.0)


def test_as_many_dimensions_as_asked_for(client: OpenAI) -> None:
    answer = client.embeddings.create(model="embedder", input="four", dimensions=1536)
    assert len(answer.data[0].embedding) == 1536


def test_many_large_vectors(client: OpenAI) -> None:
    """Several times what a worker may have unsent."""
    answer = client.embeddings.create(model="embedder", input=["a"] * 300, dimensions=1000, encoding_format="float")
    assert [one.index for one in answer.data] == list(range(300))
    assert answer.data[-1].embedding[:2] == [1.0, 299 / 4]


def test_a_model_that_cannot_is_told_so_and_what_it_can(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot do embedding, it can do chat, completion") as refusal:
        client.embeddings.create(model="talker", input="a")
    assert refusal.value.code == "invalid_request"
    with pytest.raises(openai.BadRequestError, match="cannot do chat, it can do embedding"):
        client.chat.completions.create(model="embedder", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nobody", input="a")


def test_what_cannot_be_embedded_is_the_requests_fault(client: OpenAI) -> None:
    wrong: Any = {"a": 1}
    for given in ([], wrong, ["a"] * 2049):
        with pytest.raises(openai.BadRequestError, match="input"):
            client.embeddings.create(model="embedder", input=given)


async def test_the_asynchronous_client(talking: RunningController) -> None:
    async with AsyncOpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0) as client:
        answer = await client.embeddings.create(model="embedder", input=["a", "bc"])
    assert [one.embedding[0] for one in answer.data] == [1.0, 2.0]
