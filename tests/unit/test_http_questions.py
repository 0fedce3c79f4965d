"""FastChat's calls that are no generation, at the controller's own address and at a worker's."""

import json
from typing import Any

import pytest

from broker_controller.errors import BrokerUnavailableError, NotToldError
from broker_wire.messages import Operation, Piece, QuestionKind, Usage
from tests.unit.http_double import World

COUNT = {"model": "m", "prompt": "one two"}
MODEL = {"model": "m"}
EMBED = {"model": "m", "input": ["a", "b"], "encoding_format": None}
ANSWER = {
    "object": "list",
    "data": [
        {"object": "embedding", "index": 1, "embedding": [3e-05, 4]},
        {"object": "embedding", "index": 0, "embedding": [1.50, 2]},
    ],
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}


@pytest.mark.parametrize(("prefix", "worker"), [("", None), ("/worker/gpu-1", "gpu-1")])
@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/count_token", COUNT, QuestionKind.COUNT_TOKENS),
        ("/model_details", MODEL, QuestionKind.CONTEXT_LENGTH),
        ("/worker_get_conv_template", MODEL, QuestionKind.CONVERSATION),
    ],
)
async def test_a_question_is_asked_and_its_answer_passed_on(
    prefix: str, worker: str | None, path: str, body: dict[str, Any], kind: QuestionKind
) -> None:
    world = World()
    world.questions.answer = b'{"any": "thing"}'
    answer = await world.post(prefix + path, body).whole()
    assert (answer.status, answer.body) == (200, b'{"any": "thing"}')
    assert answer.headers["content-type"] == "application/json"
    assert world.questions.asked == [(kind, "m", json.dumps(body).encode(), worker, 0)]


@pytest.mark.parametrize("error", [NotToldError("nobody counts"), BrokerUnavailableError("it is away")])
async def test_what_cannot_be_told_is_an_object_with_a_code_and_status_200(error: Any) -> None:
    world = World()
    world.questions.refusal = error
    answer = await world.post("/count_token", COUNT).whole()
    assert answer.status == 200
    assert answer.json()["error_code"] in (1, 3)
    assert error.cause in answer.json()["text"]
    assert "for model 'm'" in answer.json()["text"]


async def test_a_question_that_goes_round_among_controllers_ends() -> None:
    world = World()
    await world.post("/count_token", COUNT, {"X-Controller-Hops": "2"}).whole()
    assert world.questions.asked[0][-1] == 2
    answer = await world.post("/count_token", COUNT, {"X-Controller-Hops": "9"}).whole()
    assert answer.json()["error_code"] != 0
    assert "it has come through 9 controllers" in answer.json()["text"]
    assert len(world.questions.asked) == 1


async def test_a_question_at_an_address_leaves_the_request_to_come_that_the_address_counts_for() -> None:
    world = World("shortest_queue")
    world.announce("w1", "m")
    await world.post("/get_worker_address", MODEL).whole()
    for path, body in (("count_token", COUNT), ("model_details", MODEL), ("worker_get_conv_template", MODEL)):
        await world.post(f"/worker/w1/{path}", body).whole()
    status = await world.post("/worker/w1/worker_get_status").whole()
    assert status.json()["queue_length"] == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/count_token", {"model": "m"}),
        ("/count_token", {"model": "m", "prompt": ["a"]}),
        ("/model_details", {}),
        ("/model_details", {"model": ""}),
        ("/worker_get_conv_template", b"["),
        ("/worker_get_embeddings", {"model": "m", "input": 5}),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/worker/gpu-1"])
async def test_a_malformed_body_is_a_400(prefix: str, path: str, body: Any) -> None:
    world = World()
    answer = await world.post(prefix + path, body).whole()
    assert answer.status == 400
    assert answer.json()["error_code"] == 1
    assert world.questions.asked == []


# --- embeddings


@pytest.mark.parametrize(("path", "worker"), [("", None), ("/worker/gpu-1", "gpu-1")])
async def test_embeddings_are_a_request_and_come_in_fastchats_form(path: str, worker: str | None) -> None:
    world = World()
    answer = world.post(f"{path}/worker_get_embeddings", EMBED)
    stream = await world.gateway.submitted()
    assert (stream.submission.operation, stream.submission.pinned_worker) == (Operation.EMBEDDING, worker)
    assert json.loads(stream.submission.body) == EMBED
    stream.start("gpu-1").feed(Piece(1, 1, 0, payload=json.dumps(ANSWER).encode())).end()
    assert (await answer.whole()).json() == {"embedding": [[1.5, 2], [3e-05, 4]], "token_num": 2}


async def test_vectors_that_come_one_by_one_are_put_together_in_their_order_and_base64_stays_base64() -> None:
    world = World()
    answer = world.post("/worker_get_embeddings", EMBED)
    stream = await world.gateway.submitted()
    parts = [b'{"object": "embedding", "index": 1, "embedding": "BBBB"}', b'{"index": 0, "embedding": "AAAA"}']
    stream.start().feed(*(Piece(1, 1, number, payload=part) for number, part in enumerate(parts))).end(
        usage=Usage(7, 0)
    )
    assert (await answer.whole()).json() == {"embedding": ["AAAA", "BBBB"], "token_num": 7}


@pytest.mark.parametrize("item", ["a text", Piece(1, 1, 0, payload=b"{}"), Piece(1, 1, 0, payload=b"\xff")])
async def test_what_is_no_embedding_is_the_engines_fault(item: str | Piece) -> None:
    world = World()
    answer = world.post("/worker_get_embeddings", EMBED)
    (await world.gateway.submitted()).start().feed(item).end()
    assert (await answer.whole()).status == 200
    assert answer.json()["error_code"] == 1
