"""`/v1/embeddings`: what the worker sent, with what belongs around it."""

import json
from typing import Any

import pytest

from broker_wire.messages import Operation, Piece, Usage
from tests.unit.http_double import Answer, World

EMBEDDINGS = "/v1/embeddings"


def part(index: int, embedding: Any) -> Piece:
    entry = {"object": "embedding", "index": index, "embedding": embedding}
    return Piece(1, 1, index, payload=json.dumps(entry).encode(), index=index)


def own(payload: bytes) -> Piece:
    return Piece(1, 1, 0, payload=payload)


async def answered(*pieces: Piece | str, usage: Usage | None = None) -> Answer:
    world = World()
    answer = world.post(EMBEDDINGS, {"model": 'bge "small"', "input": ["a", "b"]})
    (await world.gateway.submitted()).start().feed(*pieces).end(usage=usage)
    return await answer.whole()


async def test_vectors_are_put_together_with_their_counts() -> None:
    answer = await answered(part(0, [0.5]), part(1, "AAAAPw=="), usage=Usage(7, 0))
    assert answer.status == 200
    assert answer.headers["x-worker"] == "w1"
    assert answer.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5]},
            {"object": "embedding", "index": 1, "embedding": "AAAAPw=="},
        ],
        "model": 'bge "small"',
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


async def test_where_the_engine_does_not_count_the_counts_are_0() -> None:
    assert (await answered(part(0, [0.5]))).json()["usage"] == {"prompt_tokens": 0, "total_tokens": 0}


async def test_an_engines_own_answer_passes_byte_for_byte() -> None:
    whole = b'{ "data":[{"embedding": [1.50]}],\n "model":"theirs", "usage":null, "new": 1.0}'
    assert (await answered(own(whole))).body == whole


@pytest.mark.parametrize("given", [[], ["a text"], [own(b"{")], [own(b"[1]")], [part(0, [1]), own(b'{"data": []}')]])
async def test_what_is_no_embedding_is_the_engines_error(given: list[Any]) -> None:
    answer = await answered(*given)
    assert answer.status == 500
    assert answer.json()["error"]["code"] == "engine_error"
    assert "not made of embeddings" in answer.json()["error"]["message"]


async def test_the_body_reaches_the_worker_untouched() -> None:
    world = World()
    body = b'{ "input": [[1, 2], [3]], "model":"bge", "dimensions": 8, "unheard_of": 1.50 }'
    answer = world.post(EMBEDDINGS, body)
    stream = await world.gateway.submitted()
    assert (stream.submission.body, stream.submission.operation) == (body, Operation.EMBEDDING)
    await answer.leave()
    assert stream.cancelled.is_set()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": "a"}, "model"),
        ({"model": "bge", "input": {"text": "a"}}, "input"),
    ],
)
async def test_a_body_that_is_none_is_told_so(body: Any, words: str) -> None:
    answer = await World().post(EMBEDDINGS, body).whole()
    assert answer.status == 400
    assert f"`{words}`" in answer.json()["error"]["message"]
