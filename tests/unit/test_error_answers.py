"""What a client is told of each kind of error, in every protocol: all that it needs, and what the table says."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from broker_controller.error_docs import EXAMPLES
from broker_controller.errors import (
    MEANINGS,
    REMEDIES,
    BadRequestError,
    BrokerUnavailableError,
    EngineRefusedError,
    OverloadedError,
    QueueFullError,
    ServiceError,
    ShuttingDownError,
    Subject,
    client_text,
    retry_seconds,
)
from broker_controller.http.cumulative import CumulativeWriter
from broker_controller.http.errors import cumulative_error, detail_style, openai_error
from broker_controller.http.events import EventWriter
from broker_controller.http.shapes import CHAT
from broker_wire.messages import Piece
from tests.unit.http_double import World

BODY = {"model": "tiny", "prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}
CODES = [MEANINGS[type(example)].openai_code for example in EXAMPLES]


def in_event(error: ServiceError) -> str:
    data, done, _ = EventWriter(CHAT, "tiny", include_usage=False).fail(error).split(b"\n\n")
    assert done == b"data: [DONE]"
    return str(json.loads(data.removeprefix(b"data: "))["error"]["message"])


def in_llava_stream(error: ServiceError) -> str:
    return str(json.loads(CumulativeWriter("").fail(error).removesuffix(b"\0"))["text"])


TEXT_IN: dict[str, Callable[[ServiceError], str]] = {
    "openai": lambda error: str(json.loads(openai_error(error))["error"]["message"]),
    "event": in_event,
    "llava": lambda error: str(json.loads(cumulative_error(error))["text"]),
    "llava stream": in_llava_stream,
    "detail": lambda error: str(json.loads(detail_style(error).body)["detail"]),
}


@pytest.mark.parametrize("protocol", TEXT_IN)
@pytest.mark.parametrize("example", EXAMPLES, ids=CODES)
def test_a_text_has_all_that_its_reader_needs(example: ServiceError, protocol: str) -> None:
    text = TEXT_IN[protocol](example)
    subject, seconds = example.subject, retry_seconds(example)
    assert f"request {subject.request_id}" in text
    assert subject.model in text
    assert subject.stage in text
    assert example.cause in text
    assert (f"Try again in {seconds} s." in text) is (seconds is not None)
    assert text.endswith(REMEDIES[type(example)])


@pytest.mark.parametrize("example", EXAMPLES, ids=CODES)
async def test_an_answer_before_the_start_is_what_the_table_says(example: ServiceError) -> None:
    meaning, seconds = MEANINGS[type(example)], retry_seconds(example)
    assert (seconds is not None) is (meaning.status in (429, 503, 504))
    world = World()
    world.gateway.refusal = copy.copy(example)
    answers = {
        path: await world.post(path, BODY).whole()
        for path in ("/v1/chat/completions", "/worker_generate", "/worker_generate_stream")
    }
    for answer in answers.values():
        assert answer.headers.get("retry-after") == (None if seconds is None else str(seconds))

    openai = answers.pop("/v1/chat/completions")
    error = openai.json()["error"]
    assert openai.status == meaning.status
    assert (error["type"], error["code"]) == (meaning.openai_type, meaning.openai_code)
    assert REMEDIES[type(example)] in error["message"]

    is_none = isinstance(example, BadRequestError) and not isinstance(example, EngineRefusedError)
    for answer in answers.values():
        assert answer.status == (meaning.status if is_none else 200)
        answered = json.loads(answer.body.removesuffix(b"\0"))
        assert answered == {"text": error["message"], "error_code": meaning.llava_code}


@pytest.mark.parametrize(
    "error",
    [
        OverloadedError("too many bytes", retry_after=4.2),
        BrokerUnavailableError("no broker answers", retry_after=5),
        QueueFullError("it is full"),
        ShuttingDownError("it leaves"),
    ],
)
async def test_the_fleets_doors_say_when_to_come_back_as_well(error: ServiceError) -> None:
    world = World()
    world.bridges.refusal = error
    answer = await world.post("/register_worker", {"worker_name": "http://w", "check_heart_beat": True}).whole()
    assert answer.status == MEANINGS[type(error)].status
    assert answer.headers["retry-after"] == str(retry_seconds(error))
    assert f"Try again in {retry_seconds(error)} s." in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/chat/completions", b"{", "request mine, before it was queued: the body of the request is not JSON"),
        ("/v1/chat/completions", BODY | {"model": ""}, "request mine, before it was queued: "),
        ("/worker_generate", {"model": "tiny"}, "request mine, before it was queued: the body of the request has not"),
        ("/worker/a%20b/worker_get_status", None, "request mine: "),
        ("/worker/gpu-9/worker_get_status", None, "request mine: there is no worker 'gpu-9' here. Ask for the model"),
        ("/register_worker", b"[]", "request mine: "),
        ("/nowhere", None, "request mine: there is nothing at /nowhere. Correct the path"),
        ("/healthz", None, "request mine: /healthz does not take POST. Use the method"),
    ],
)
async def test_what_an_error_does_not_know_of_its_request_is_filled_in(path: str, body: Any, said: str) -> None:
    answer = await World().post(path, body, {"X-Request-Id": "mine"}).whole()
    assert 400 <= answer.status < 500
    found = answer.json()
    text = found["error"]["message"] if "error" in found else found.get("text", found.get("detail"))
    assert text.startswith(said)


@pytest.mark.parametrize("header", [{"X-Resume": "always"}, {}])
async def test_a_refusal_after_the_body_was_read_names_the_model(header: dict[str, str]) -> None:
    world = World()
    world.gateway.refusal = ShuttingDownError("it was not taken: this controller is about to leave")
    answer = await world.post("/v1/chat/completions", BODY, {"X-Request-Id": "mine"} | header).whole()
    said = "request mine for model 'tiny', before it was queued: "
    assert answer.json()["error"]["message"].startswith(said)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/worker_generate"])
async def test_an_engines_nonsense_is_told_with_its_worker(path: str) -> None:
    world = World()
    answer = world.post(path, BODY, {"X-Request-Id": "mine"})
    (await world.gateway.submitted()).start("gpu-1").feed(Piece(1, 1, 0, "a", logprobs=b"[1]")).end()
    await answer.whole()
    assert b"request mine for model 'tiny', at the end of the answer of worker 'gpu-1': the engine sent" in answer.body


def test_the_engines_own_word_for_a_refusal_takes_the_place_of_ours() -> None:
    told, untold = (
        json.loads(openai_error(error))["error"]
        for error in (
            EngineRefusedError("no", code="context_length_exceeded", param="messages"),
            EngineRefusedError("no"),
        )
    )
    assert (told["code"], told["param"], told["type"]) == (
        "context_length_exceeded",
        "messages",
        "invalid_request_error",
    )
    assert (untold["code"], untold["param"]) == ("engine_refused", None)


def test_what_an_error_knows_is_not_overwritten() -> None:
    error = ServiceError("it failed", subject=Subject("a", stage="starting"))
    assert str(error.about(Subject("b", "m", "in the queue"))) == "request a for model 'm', starting: it failed"


def test_a_sentence_that_has_an_end_gets_no_other() -> None:
    remedy = REMEDIES[EngineRefusedError]
    assert client_text(EngineRefusedError("worker 'w1' says: no!\n")) == f"worker 'w1' says: no! {remedy}"
