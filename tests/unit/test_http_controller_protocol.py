"""LLaVA's and FastChat's endpoints: what their clients and workers get, byte for byte."""

import asyncio
import json
from typing import Any

import pytest

from broker_controller.errors import (
    AddressRefusedError,
    BadRequestError,
    DeadlineError,
    EngineError,
    EngineRefusedError,
    ModelNotFoundError,
    QueueFullError,
    RequestTooLargeError,
    ServiceError,
    WorkerLostError,
    client_text,
)
from broker_controller.http import cumulative, streaming
from broker_controller.http.cumulative import CumulativeWriter
from broker_wire.messages import End, Operation, Piece, Usage
from tests.unit.http_double import World

STREAM = "/worker_generate_stream"
BODY = {"model": "tiny", "prompt": 'USER: "hi" ', "temperature": 0.7, "max_new_tokens": 4, "stop": "###"}


def piece(text: str = "", **fields: Any) -> Piece:
    return Piece(1, 1, 0, text, **fields)


def objects(body: bytes) -> list[Any]:
    *found, rest = body.split(b"\0")
    assert rest == b""
    return [json.loads(one) for one in found if one]


async def test_a_stream_is_cumulative_objects_that_end_with_nul() -> None:
    world = World()
    answer = world.post(STREAM, BODY)
    stream = (await world.gateway.submitted()).start().feed("Hel")
    await answer.until(lambda: len(answer.parts) == 1)
    stream.feed("lo\n")
    await answer.until(lambda: len(answer.parts) == 2)
    stream.end("length", Usage(3, 4))
    await answer.whole()
    assert answer.parts == [
        b'{"text": "USER: \\"hi\\" Hel", "error_code": 0}\0',
        b'{"text": "USER: \\"hi\\" Hello\\n", "error_code": 0}\0',
        b'{"text": "USER: \\"hi\\" Hello\\n", "error_code": 0, "usage": {"prompt_tokens":3,"completion_tokens":4,'
        b'"total_tokens":7}, "finish_reason": "length"}\0',
    ]
    assert answer.headers["x-worker"] == "w1"


async def test_what_came_in_one_go_is_one_object() -> None:
    world = World()
    answer = world.post(STREAM, BODY)
    (await world.gateway.submitted()).start().feed(*"abc").feed("d").end()
    assert [one["text"] for one in objects((await answer.whole()).body)] == ['USER: "hi" abcd']


@pytest.mark.parametrize(
    ("echo", "prefix"),
    [({"echo": True}, BODY["prompt"]), ({}, BODY["prompt"]), ({"echo": False}, ""), ({"echo": None}, "")],
)
async def test_the_text_begins_with_the_prompt_unless_that_is_declined(echo: dict[str, Any], prefix: str) -> None:
    world = World()
    answer = world.post(STREAM, BODY | echo)
    (await world.gateway.submitted()).start().feed("out").end()
    assert objects((await answer.whole()).body)[-1]["text"] == prefix + "out"


async def test_the_request_goes_to_whoever_is_free_with_its_body_untouched() -> None:
    world = World()
    body = b'{"prompt": "p", "images": ["AAAA"], "model": "tiny" , "x": 1}'
    answer = world.post(STREAM, body)
    stream = await world.gateway.submitted()
    assert (stream.submission.body, stream.submission.operation) == (body, Operation.LLAVA)
    assert stream.submission.pinned_worker is None
    await answer.leave()
    assert stream.cancelled.is_set()


async def test_text_can_shrink_and_logprobs_grow() -> None:
    writer = CumulativeWriter("p: ")
    texts = [
        json.loads(writer.encode([*items])[:-1])["text"]
        for items in (["é\n"], ["wor##"], [piece("", replace_from=5)], [piece("!", replace_from=1)])
    ]
    assert texts == ["p: é\n", "p: é\nwor##", "p: é\nwor", "p: é!"]

    first = json.loads(writer.encode([piece("a", logprobs=b'{"tokens": ["a"], "offset": 1}')])[:-1])
    last = json.loads(writer.encode([piece("b", logprobs=b'{"tokens": ["b"], "offset": 2}'), End(1, 1, 2)])[:-1])
    assert first["logprobs"] == {"tokens": ["a"], "offset": 1}
    assert last["logprobs"] == {"tokens": ["a", "b"], "offset": 2}
    assert last["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelNotFoundError("no worker serves 'tiny'"), 2),
        (WorkerLostError("gpu-1 was lost"), 3),
        (DeadlineError("the time is up"), 3),
        (QueueFullError("the queue is full"), 3),
        (EngineError("the engine raised"), 1),
        (EngineRefusedError("the prompt is too long"), 1),
    ],
)
@pytest.mark.parametrize("started", [True, False])
async def test_an_error_is_an_object_with_a_code_and_status_200(
    error: ServiceError, code: int, started: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cumulative.CumulativeWriter, "hold", 0.01 if started else 60.0)
    world = World()
    answer = world.post(STREAM, BODY)
    stream = await world.gateway.submitted()
    stream.start()
    if started:
        await answer.until(lambda: answer.started)
    stream.fail(error)
    await answer.whole()
    assert answer.status == 200
    assert json.loads(answer.body.strip(b"\0")) == {"text": client_text(error), "error_code": code}
    assert answer.body.endswith(b"\0")


async def test_the_last_object_says_what_the_headers_could_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cumulative.CumulativeWriter, "hold", 0.01)
    for fails in (True, False):
        world = World()
        answer = world.post(STREAM, BODY)
        stream = await world.gateway.submitted()
        await answer.until(lambda answer=answer: answer.parts)
        stream.start("w1").feed("a")
        await answer.until(lambda answer=answer: b"a" in answer.parts[-1])
        stream.move("w2").feed("b")
        if fails:
            stream.fail(EngineError("the engine raised"))
        else:
            stream.end()
        first, *_, last = objects((await answer.whole()).body)
        assert "worker" not in first
        assert (last["worker"], last["attempts"], last["error_code"]) == ("w2", 2, int(fails))
        assert 0 <= last["queue_time"] < 60


async def test_a_request_that_waits_has_headers_soon_and_lone_nuls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEPALIVE_INTERVAL", 0.01)
    world = World()
    answer = world.post(STREAM, BODY)
    stream = await world.gateway.submitted()
    await answer.until(lambda: len(answer.parts) >= 3)
    assert answer.status == 200
    assert set(answer.parts) == {b"\0"}
    stream.start().feed("late").end()
    assert objects((await answer.whole()).body)[-1]["text"].endswith("late")


async def test_a_hundred_thousand_chunks_are_not_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cumulative.CumulativeWriter, "bytes_per_second", 64 * 1024 * 1024)
    world = World()
    answer = world.post(STREAM, BODY)
    stream = (await world.gateway.submitted()).start()
    for _ in range(10_000):
        stream.feed(*["0123456789"] * 10)
        await asyncio.sleep(0)
    stream.end()
    await answer.whole()
    assert len(objects(answer.parts[-1])[0]["text"]) == 1_000_000 + len(BODY["prompt"])  # type: ignore[arg-type]
    assert len(answer.body) < 500_000_000  # one object a tick would be 5 GB


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"model": "tiny"}',
        b'{"prompt": "p"}',
        b'{"model": 1, "prompt": "p"}',
        b'{"model": "", "prompt": "p"}',
        b'{"model": "tiny", "prompt": ["p"]}',
        b'{"model": "tiny", "prompt": "p", "echo": "yes"}',
    ],
)
@pytest.mark.parametrize("path", [STREAM, "/worker_generate", "/worker/w1/worker_generate_stream"])
async def test_a_malformed_body_is_a_400_with_a_text(path: str, body: bytes) -> None:
    answer = await World().post(path, body).whole()
    assert answer.status == 400
    assert answer.json()["error_code"] == 1
    assert len(answer.json()["text"]) > 20


async def test_what_the_broker_cannot_carry_is_a_413() -> None:
    world = World()
    world.gateway.refusal = RequestTooLargeError("too large for the broker")
    assert (await world.post(STREAM, BODY).whole()).status == 413


async def test_a_whole_answer_is_the_last_object_alone() -> None:
    world = World()
    answer = world.post("/worker_generate", BODY | {"echo": False})
    (await world.gateway.submitted()).start("gpu-1").feed("a", "b").end("length", Usage(1, 2))
    assert (await answer.whole()).json() == {
        "text": "ab",
        "error_code": 0,
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "finish_reason": "length",
    }
    assert answer.headers["x-worker"] == "gpu-1"

    answer = world.post("/worker_generate", BODY)
    (await world.gateway.submitted()).start().feed("a").fail(EngineError("the engine raised"))
    assert (await answer.whole()).status == 200
    assert answer.json()["error_code"] == 1
    assert ": the engine raised. " in answer.json()["text"]


# --- the fleet


async def test_the_lists_of_models_are_sorted() -> None:
    world = World()
    world.announce("w1", "b", "a")
    assert (await world.post("/list_models").whole()).json() == {"models": ["a", "b"]}
    assert (await world.post("/list_language_models", {}).whole()).json() == {"models": ["a", "b"]}
    assert (await world.post("/list_multimodal_models").whole()).json() == {"models": []}


async def test_a_refresh_calls_the_roll_and_answers_null() -> None:
    world = World()
    answer = await world.post("/refresh_all_workers").whole()
    assert (answer.status, answer.body, world.fleet.roll_calls) == (200, b"null", 1)


@pytest.mark.parametrize("method", ["queue", "affinity"])
async def test_without_a_choice_of_a_worker_the_address_is_the_controllers_own(method: str) -> None:
    world = World(method)
    world.announce("w1", "tiny")
    assert (await world.post("/get_worker_address", {"model": "tiny"}).whole()).json() == {
        "address": "http://controller:21001"
    }
    assert (await world.post("/get_worker_address", {"model": "none"}).whole()).json() == {"address": ""}

    world = World(method, public_url="https://models.example")
    world.announce("w1", "tiny")
    assert (await world.post("/get_worker_address", {"model": "tiny"}).whole()).json() == {
        "address": "https://models.example"
    }


@pytest.mark.parametrize("method", ["lottery", "shortest_queue"])
async def test_with_a_choice_the_address_is_the_chosen_workers(method: str) -> None:
    world = World(method)
    world.announce("w1", "tiny")
    address = (await world.post("/get_worker_address", {"model": "tiny"}).whole()).json()["address"]
    assert address == "http://controller:21001/worker/w1"

    world.controller.register_worker("http://old:21002", True, {"model_names": ["old"], "speed": 1, "queue_length": 0})
    address = (await world.post("/get_worker_address", {"model": "old"}).whole()).json()["address"]
    assert address == "http://old:21002"
    assert (await world.post("/get_worker_address", {"model": "none"}).whole()).json() == {"address": ""}


async def test_the_fleets_status_is_a_sum_with_the_queues() -> None:
    world = World()
    world.announce("w1", "a", speed=1.0)
    world.announce("w2", "b", speed=2.0)
    world.queues.waiting = 5
    assert (await world.post("/worker_get_status").whole()).json() == {
        "model_names": ["a", "b"],
        "speed": 3,
        "queue_length": 5,
        "controller": "c0ffee",
    }


async def test_an_http_worker_registers_and_its_heartbeats_are_known() -> None:
    world = World()
    status = {"model_names": ["m"], "speed": 1, "queue_length": 0}
    beat = {"worker_name": "http://old:21002", "queue_length": 3}
    assert (await world.post("/receive_heart_beat", beat).whole()).json() == {"exist": False}
    answer = await world.post(
        "/register_worker", {"worker_name": "http://old:21002", "check_heart_beat": True, "worker_status": status}
    ).whole()
    assert (answer.status, answer.body) == (200, b"null")
    assert world.bridges.registered == [("http://old:21002", True, status, False)]
    assert (await world.post("/receive_heart_beat", beat).whole()).json() == {"exist": True}


@pytest.mark.parametrize(
    ("refusal", "status"), [(AddressRefusedError("not from there"), 403), (BadRequestError("no such address"), 400)]
)
async def test_an_http_worker_may_be_refused(refusal: ServiceError, status: int) -> None:
    world = World()
    world.bridges.refusal = refusal
    answer = await world.post("/register_worker", {"worker_name": "x", "check_heart_beat": True}).whole()
    assert (answer.status, answer.json()) == (status, {"detail": client_text(refusal)})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/register_worker", {"worker_name": "http://w"}),
        ("/register_worker", {"worker_name": 5, "check_heart_beat": True}),
        ("/register_worker", {"worker_name": "http://w", "check_heart_beat": "yes"}),
        ("/register_worker", {"worker_name": "http://w", "check_heart_beat": True, "worker_status": [1]}),
        ("/receive_heart_beat", {"worker_name": "http://w"}),
        ("/receive_heart_beat", {"worker_name": "http://w", "queue_length": "many"}),
        ("/receive_heart_beat", b'{"worker_name": "http://w", "queue_length": 1e999}'),
        ("/get_worker_address", {}),
        ("/get_worker_address", b"\xff"),
    ],
)
async def test_a_malformed_body_is_a_400_with_a_detail(path: str, body: Any) -> None:
    answer = await World().post(path, body).whole()
    assert answer.status == 400
    assert len(answer.json()["detail"]) > 20


# --- one worker


async def test_an_address_of_a_worker_reaches_that_worker() -> None:
    world = World()
    for path in ("/worker/gpu-1/worker_generate_stream", "/worker/gpu-1/worker_generate"):
        answer = world.post(path, BODY)
        stream = await world.gateway.submitted()
        assert stream.submission.pinned_worker == "gpu-1"
        stream.start("gpu-1").feed("x").end()
        assert b'hi\\" x"' in (await answer.whole()).body


async def test_a_worker_at_an_address_gives_its_own_status() -> None:
    world = World()
    world.announce("gpu-1", "a", speed=2.0)
    world.announce("gpu-2", "b")
    assert (await world.post("/worker/gpu-1/worker_get_status").whole()).json() == {
        "model_names": ["a"],
        "speed": 2,
        "queue_length": 0,
    }
    answer = await world.post("/worker/gpu-9/worker_get_status").whole()
    assert answer.status == 404
    assert "there is no worker 'gpu-9' here" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["a b", "é", "x" * 129, "..%2f"])
async def test_a_bad_name_in_an_address_is_a_400(name: str) -> None:
    assert (await World().post(f"/worker/{name}/worker_get_status").whole()).status == 400
    assert (await World().post(f"/worker/{name}/worker_generate_stream", BODY).whole()).status == 400


async def test_an_address_that_was_handed_out_counts_until_it_is_used() -> None:
    world = World("shortest_queue")
    world.announce("w1", "tiny")
    await world.post("/get_worker_address", {"model": "tiny"}).whole()
    status = "/worker/w1/worker_get_status"
    assert (await world.post(status).whole()).json()["queue_length"] == 1
    answer = world.post("/worker/w1/worker_generate", BODY)
    (await world.gateway.submitted()).start().end()
    await answer.whole()
    assert (await world.post(status).whole()).json()["queue_length"] == 0
