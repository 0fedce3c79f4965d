"""`/v1/responses`: what clients get, and what is kept of it, without a broker."""

import json
import re
from typing import Any

import pytest

from broker_controller.errors import EngineError, QueueFullError
from broker_controller.http import streaming
from broker_wire.messages import Usage
from tests.unit.http_double import World

RESPONSES = "/v1/responses"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": "hi"} | fields


def events(told: bytes) -> list[dict[str, Any]]:
    """Of each event, its data; id and type beside it have to be the same."""
    found = []
    for event in told.decode().split("\n\n"):
        if not event or event.startswith(":"):
            continue
        number, kind, data = (line.partition(": ")[2] for line in event.split("\n"))
        found.append(json.loads(data))
        assert (found[-1]["sequence_number"], found[-1]["type"]) == (int(number), kind)
    return found


async def test_a_stream_begins_with_the_first_write_and_is_kept_when_it_ends() -> None:
    world = World()
    answer = world.post(RESPONSES, body(stream=True))
    stream = (await world.gateway.submitted()).start()
    assert json.loads(stream.submission.body)["messages"] == [{"role": "user", "content": "hi"}]
    stream.feed("a", "b")
    await answer.until(lambda: b'"delta":"b"' in answer.body)
    assert len(world.keeper.shelf) == 0
    stream.end(usage=Usage(1, 2))
    told = events((await answer.whole()).body)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-worker"] == "w1"

    response = told[-1]["response"]
    fetched = await world.get(f"{RESPONSES}/{response['id']}").whole()
    assert fetched.json() == response
    assert response["usage"]["output_tokens"] == 2


async def test_a_comment_is_a_line_and_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's own client fails at an event without data, once one had an id."""
    monkeypatch.setattr(streaming, "KEEPALIVE_INTERVAL", 0.01)
    world = World()
    answer = world.post(RESPONSES, body(stream=True))
    stream = (await world.gateway.submitted()).start().feed("a")
    await answer.until(lambda: answer.body.count(b": waiting\n") > 2)
    stream.move("w2")
    await answer.until(lambda: b": moved worker=w2" in answer.body)
    stream.feed("b").end()
    await answer.whole()
    assert not re.search(rb"^:[^\n]*\n\n", answer.body, re.MULTILINE)
    told = [block for block in answer.body.decode().split("\n\n") if block]
    assert all("\ndata: {" in block for block in told)


async def test_a_whole_answer_is_the_response() -> None:
    world = World()
    answer = world.post(RESPONSES, body(metadata={"k": "v"}))
    (await world.gateway.submitted()).start().feed("a", "b").end()
    response = (await answer.whole()).json()
    assert response["output"][0]["content"][0]["text"] == "ab"
    assert (response["status"], response["metadata"]) == ("completed", {"k": "v"})
    assert world.keeper.shelf.get(response["id"]) is not None


async def test_what_is_not_to_be_stored_is_not_kept() -> None:
    world = World()
    for stream in (False, True):
        answer = world.post(RESPONSES, body(store=False, stream=stream))
        (await world.gateway.submitted()).start().feed("a").end()
        await answer.whole()
    assert len(world.keeper.shelf) == 0


async def test_an_error_before_the_start_has_its_status_and_one_after_it_is_an_event() -> None:
    world = World()
    world.gateway.refusal = QueueFullError("it is full", retry_after=7)
    answer = await world.post(RESPONSES, body(stream=True)).whole()
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["code"] == "queue_full"

    world.gateway.refusal = None
    answer = world.post(RESPONSES, body(stream=True))
    (await world.gateway.submitted()).start().feed("a").fail(EngineError("it broke"))
    told = events((await answer.whole()).body)
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["error"]["code"] == "engine_error"
    assert world.keeper.shelf.get(told[-1]["response"]["id"]) is not None


async def test_when_the_client_leaves_the_request_is_cancelled_and_what_it_had_is_kept() -> None:
    world = World()
    answer = world.post(RESPONSES, body(stream=True))
    stream = (await world.gateway.submitted()).start().feed("a")
    await answer.until(lambda: b'"delta":"a"' in answer.body)
    response_id = events(answer.body)[0]["response"]["id"]
    await answer.leave()
    assert stream.cancelled.is_set()
    fetched = (await world.get(f"{RESPONSES}/{response_id}").whole()).json()
    assert fetched["status"] == "cancelled"
    assert fetched["output"][0]["content"][0]["text"] == "a"


async def test_a_conversation_goes_on_with_what_was_said() -> None:
    world = World()
    answer = world.post(RESPONSES, body(instructions="once"))
    (await world.gateway.submitted()).start().feed("hello").end()
    first = (await answer.whole()).json()["id"]
    answer = world.post(RESPONSES, body(input="and now?", previous_response_id=first))
    stream = (await world.gateway.submitted()).start()
    assert json.loads(stream.submission.body)["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "and now?"},
    ]
    stream.feed("x").end()
    assert (await answer.whole()).json()["previous_response_id"] == first


async def test_a_body_that_is_wrong_is_a_400_that_says_what() -> None:
    world = World()
    for wrong, text in ((b"{", "not JSON"), (b'{"model": "m"}', "`input`"), (b'{"model": "m", "input": 1}', "input")):
        answer = await world.post(RESPONSES, wrong).whole()
        assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert text in answer.json()["error"]["message"]
    answer = world.post(RESPONSES, body())
    (await world.gateway.submitted()).start().feed("hello").end()
    kept = (await answer.whole()).json()["id"]
    for number in ("-1", "x", "9" * 5000):
        answer = await world.get(f"{RESPONSES}/{kept}?stream=true&starting_after={number}").whole()
        assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_request")
    answer = await world.get(f"{RESPONSES}/resp_nobody").whole()
    assert (answer.status, answer.json()["error"]["code"]) == (404, "response_not_found")
