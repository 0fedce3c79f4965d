"""OpenAI's endpoints: what clients get, byte for byte."""

import asyncio
import json
import logging
import re
from typing import Any

import pytest

from broker_controller.errors import (
    BrokerUnavailableError,
    DeadlineError,
    EngineError,
    ModelNotFoundError,
    PoisonError,
    QueueFullError,
    WorkerLostError,
    client_text,
)
from broker_controller.forecast import Outlook
from broker_controller.http import events, streaming
from broker_wire.messages import Operation, Payloads, Piece, ResumeMode, Usage
from tests.unit.http_double import World
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]} | fields


def piece(text: str = "", **fields: Any) -> Piece:
    return Piece(1, 1, 0, text, **fields)


def datas(body: bytes) -> list[Any]:
    """The JSON of each event but the last, which has to be `[DONE]`."""
    *all_events, done, nothing = body.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in all_events if not event.startswith(b":")]


async def test_a_streamed_chat_is_these_bytes() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    (await world.gateway.submitted()).start().feed('a "quoted"\n', " é").end("length")
    await answer.whole()

    first = json.loads(answer.body.split(b"\n\n")[0].removeprefix(b"data: "))
    head = b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":"tiny","choices":[{"index":0,' % (
        first["id"].encode(),
        first["created"],
    )
    assert answer.body == b"".join(
        [
            head + b'"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n',
            head + b'"delta":{"content":"a \\"quoted\\"\\n"},"finish_reason":null}]}\n\n',
            head + '"delta":{"content":" é"},"finish_reason":null}]}\n\n'.encode(),
            head + b'"delta":{},"finish_reason":"length"}]}\n\n',
            b"data: [DONE]\n\n",
        ]
    )
    assert first["id"].startswith("chatcmpl-")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_all_that_came_in_one_go_is_one_write() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    (await world.gateway.submitted()).start().feed(*"abc").feed("d").end()
    await answer.whole()
    assert len(answer.parts) == 1
    assert [data["choices"][0]["delta"].get("content") for data in datas(answer.body)] == ["", *"abcd", None]


async def test_chunks_are_written_as_they_come() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    stream = (await world.gateway.submitted()).start()
    for text in "abc":
        stream.feed(text)
        await answer.until(lambda text=text: f'"{text}"'.encode() in answer.body)
        assert not answer.complete
    stream.end()
    await answer.whole()


async def test_the_body_reaches_the_worker_untouched() -> None:
    world = World()
    body = b'{ "stream": true, "unheard_of": [1.50, "\\u00e9"], "model":"tiny", "messages":[{"role":"user"}] }'
    answer = world.post(CHAT, body, {"X-Request-Id": "mine-1"})
    stream = await world.gateway.submitted()
    submission = stream.submission
    assert (submission.body, submission.model, submission.operation) == (body, "tiny", Operation.CHAT)
    assert (submission.request_id, submission.pinned_worker, submission.timeout) == ("mine-1", None, 600.0)
    stream.start().end()
    assert (await answer.whole()).headers["x-request-id"] == "mine-1"


async def test_usage_is_streamed_for_those_who_ask() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True, stream_options={"include_usage": True}))
    (await world.gateway.submitted()).start().feed("a").end(usage=Usage(3, 4))
    chunks = datas((await answer.whole()).body)
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None, None, None]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}

    answer = world.post(CHAT, chat(stream=True))
    (await world.gateway.submitted()).start().feed("a").end(usage=Usage(3, 4))
    assert b"usage" not in (await answer.whole()).body


async def test_an_engines_own_chunks_pass_untouched() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    choice = b'{"delta":{"tool_calls":[{"index":0}]}, "finish_reason": "tool_calls"}'
    own = b'{"id":"theirs", "choices":[' + choice + b'], "new_field": 1.0}'
    (await world.gateway.submitted()).start().feed(piece(payload=own), piece(payload=b'{\n"x":1}')).end()
    assert (await answer.whole()).body == b"data: " + own + b'\n\ndata: { "x":1}\n\ndata: [DONE]\n\n'


async def test_many_of_an_engines_chunks_at_once_are_as_many_events_each_on_one_line() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    own = [b'{"id":"1","n":%d}' % number for number in range(3)]
    broken = b'{\r\n"id":\n"1"}'
    end = b'{"id":"1", "choices":[{"finish_reason" : "stop"}]}'
    stream = (await world.gateway.submitted()).start()
    stream.feed(Payloads(1, 1, 0, own), Payloads(1, 1, 3, [broken, own[0]]), Payloads(1, 1, 5, [end])).end()
    events = [*own, b'{  "id": "1"}', own[0], end, b"[DONE]"]
    assert (await answer.whole()).body == b"".join(b"data: %b\n\n" % event for event in events)


async def test_chunks_of_another_attempt_keep_the_first_ones_identity() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    stream = (await world.gateway.submitted()).start()
    stream.feed(Payloads(1, 1, 0, [b'{"id":"1","created":5,"x":0}']))
    stream.feed(Payloads(1, 2, 1, [b'{"id":"2","created":6,"x":1}', b'{"id":"2","x":2}'])).end()
    first, *moved = datas((await answer.whole()).body)[:3]
    assert (first, moved) == (
        {"id": "1", "created": 5, "x": 0},
        [{"id": "1", "created": 5, "x": 1}, {"id": "1", "x": 2}],
    )


async def test_payloads_of_an_answer_that_does_not_stream_are_put_together() -> None:
    world = World()
    answer = world.post(CHAT, chat())
    chunks = [b'{"id":"x","choices":[{"index":0,"delta":{"content":"%b"}}]}' % text for text in (b"a", b"b", b"c")]
    stream = (await world.gateway.submitted()).start()
    stream.feed(Payloads(1, 1, 0, chunks[:2]), Payloads(1, 1, 2, chunks[2:])).end()
    assert (await answer.whole()).json()["choices"][0]["message"]["content"] == "abc"


async def test_counts_that_an_engine_says_apart_from_its_own_chunks_are_streamed_for_those_who_ask() -> None:
    world = World()
    for counted in (b"", b', "usage": {"total_tokens": 9}'):
        answer = world.post(CHAT, chat(stream=True, stream_options={"include_usage": True}))
        own = b'{"id":"theirs","choices":[{"delta":{},"finish_reason":"stop"}]' + counted + b"}"
        (await world.gateway.submitted()).start().feed(piece(payload=own)).end(usage=Usage(3, 4))
        first, *rest = datas((await answer.whole()).body)
        assert first == json.loads(own)
        if counted:
            assert rest == []
        else:
            assert [(one["id"], one["choices"], one["usage"]["total_tokens"]) for one in rest] == [("theirs", [], 7)]


async def test_a_choice_without_a_text_is_in_the_stream_beside_others() -> None:
    world = World()
    answer = world.post(COMPLETIONS, {"model": "tiny", "prompt": ["a", "b"], "stream": True})
    (await world.gateway.submitted()).start().feed(piece("b", index=1, finish_reason="stop")).end("length")
    choices = [chunk["choices"][0] for chunk in datas((await answer.whole()).body)]
    assert choices[-1] == {"index": 0, "text": "", "finish_reason": "length"}


async def test_each_of_n_choices_begins_and_ends() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True, n=2))
    (await world.gateway.submitted()).start().feed(
        "a", piece("b", index=1, finish_reason="length"), piece("c", logprobs=b'{"content":[1]}')
    ).end()
    choices = [chunk["choices"][0] for chunk in datas((await answer.whole()).body)]
    assert choices == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
        {"index": 0, "delta": {"content": "a"}, "finish_reason": None},
        {"index": 1, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
        {"index": 1, "delta": {"content": "b"}, "finish_reason": "length"},
        {"index": 0, "delta": {"content": "c"}, "logprobs": {"content": [1]}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]


async def test_a_streamed_completion_has_texts() -> None:
    world = World()
    answer = world.post(COMPLETIONS, {"model": "tiny", "prompt": "once", "stream": True})
    (await world.gateway.submitted()).start().feed(" upon").end()
    chunks = datas((await answer.whole()).body)
    assert chunks[0]["object"] == "text_completion"
    assert chunks[0]["id"].startswith("cmpl-")
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "text": " upon", "finish_reason": None}],
        [{"index": 0, "text": "", "finish_reason": "stop"}],
    ]


async def test_a_whole_chat_is_put_together() -> None:
    world = World()
    answer = world.post(CHAT, chat(n=2))
    (await world.gateway.submitted()).start("gpu-1").feed(
        "Hel",
        "lo",
        piece(" wor<stop", logprobs=b'{"content":[1]}'),
        piece("!", replace_from=9, logprobs=b'{"content":[2]}'),
    ).feed(piece("Bye", index=1, finish_reason="length")).end(usage=Usage(1, 2))
    await answer.whole()
    found = answer.json()
    assert found.pop("id").startswith("chatcmpl-")
    assert found.pop("created") > 1_600_000_000
    assert found == {
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello wor!"},
                "logprobs": {"content": [1, 2]},
                "finish_reason": "stop",
            },
            {
                "index": 1,
                "message": {"role": "assistant", "content": "Bye"},
                "logprobs": None,
                "finish_reason": "length",
            },
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    assert (answer.headers["x-worker"], answer.headers["x-attempts"]) == ("gpu-1", "1")
    assert float(answer.headers["x-queue-time"]) >= 0
    assert int(answer.headers["content-length"]) == len(answer.body)


async def test_a_whole_completion_is_put_together() -> None:
    world = World()
    answer = world.post(COMPLETIONS, {"model": "tiny", "prompt": [1, 2]})
    stream = await world.gateway.submitted()
    assert stream.submission.operation is Operation.COMPLETION
    stream.start().feed("a", "b").end("length")
    assert (await answer.whole()).json()["choices"] == [
        {"index": 0, "text": "ab", "logprobs": None, "finish_reason": "length"}
    ]


async def test_a_result_that_the_engine_has_whole_is_passed_on() -> None:
    world = World()
    answer = world.post(CHAT, chat())
    (await world.gateway.submitted()).start().end(result=b'{"id": "theirs"}')
    assert (await answer.whole()).body == b'{"id": "theirs"}'


async def test_an_engines_chunks_become_one_answer_that_keeps_what_nobody_here_knows() -> None:
    world = World()
    answer = world.post(CHAT, chat())
    chunks = [
        {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"role": "assistant"}}]},
        {"id": "x", "choices": [{"index": 0, "delta": {"reasoning": "so"}, "finish_reason": None}]},
        {"id": "x", "choices": [{"index": 0, "delta": {"reasoning": " what", "tool_calls": [_call("f", '{"a"')]}}]},
        {"id": "x", "choices": [{"index": 0, "delta": {"tool_calls": [_call(None, ":1}")]}, "finish_reason": "tool"}]},
        {"id": "x", "choices": [], "usage": {"total_tokens": 3}},
    ]
    (await world.gateway.submitted()).start().feed(*(piece(payload=json.dumps(one).encode()) for one in chunks)).end()
    assert (await answer.whole()).json() == {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "reasoning": "so what",
                    "tool_calls": [{"function": {"name": "f", "arguments": '{"a":1}'}}],
                },
                "finish_reason": "tool",
            }
        ],
        "usage": {"total_tokens": 3},
    }


def _call(name: str | None, arguments: str) -> dict[str, Any]:
    return {"index": 0, "function": {"name": name, "arguments": arguments}}


async def test_an_engines_nonsense_is_the_engines_error() -> None:
    world = World()
    answer = world.post(CHAT, chat())
    (await world.gateway.submitted()).start().feed(piece(payload=b"[1]")).end()
    assert (await answer.whole()).status == 500
    assert answer.json()["error"]["code"] == "engine_error"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ModelNotFoundError("no worker serves it; served now: tiny"), 404, "model_not_found"),
        (QueueFullError("the queue is full", retry_after=2.5), 429, "queue_full"),
        (BrokerUnavailableError("the broker is away", retry_after=5), 503, "broker_unavailable"),
        (DeadlineError("the time is up"), 504, "deadline_exceeded"),
        (WorkerLostError("gpu-1 was lost"), 502, "worker_lost"),
    ],
)
@pytest.mark.parametrize("refused_at_once", [True, False])
async def test_an_error_before_the_start_has_its_real_status(
    error: Any, status: int, code: str, stream: bool, refused_at_once: bool
) -> None:
    world = World()
    if refused_at_once:
        world.gateway.refusal = error
    answer = world.post(CHAT, chat(stream=stream))
    if not refused_at_once:
        (await world.gateway.submitted()).fail(error)
    await answer.whole()
    assert answer.status == status
    assert answer.json()["error"]["message"] == client_text(error)
    assert answer.json()["error"]["code"] == code
    retry_after = {429: "3", 503: "5", 504: "1"}.get(status)
    assert answer.headers.get("retry-after") == retry_after
    assert "x-worker" not in answer.headers


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (EngineError("out of memory"), "false"),
        (PoisonError("it killed three workers"), "false"),
        (WorkerLostError("gpu-1 was lost"), None),
        (ModelNotFoundError("no worker serves it"), None),
    ],
)
async def test_openais_clients_are_told_what_they_need_not_repeat(error: Any, advice: str | None) -> None:
    world = World()
    world.gateway.refusal = error
    answer = await world.post(CHAT, chat()).whole()
    assert answer.headers.get("x-should-retry") == advice


async def test_an_error_in_the_middle_of_a_stream_is_an_event() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    stream = (await world.gateway.submitted()).start().feed("a")
    await answer.until(lambda: answer.parts)
    raised = EngineError("the engine raised: out of memory")
    stream.feed("b").fail(raised)
    await answer.whole()
    assert answer.status == 200
    *chunks, error = datas(answer.body)
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["", "a", "b"]
    assert error == {
        "error": {
            "message": client_text(raised),
            "type": "server_error",
            "param": None,
            "code": "engine_error",
        }
    }


async def test_an_error_in_the_middle_of_a_whole_answer_has_its_real_status() -> None:
    world = World()
    answer = world.post(CHAT, chat())
    (await world.gateway.submitted()).start().feed("a").fail(EngineError("the engine raised"))
    assert (await answer.whole()).status == 500


async def test_the_status_waits_for_the_first_chunk() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    stream = await world.gateway.submitted()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not answer.started
    stream.start("gpu-7")
    for _ in range(5):
        await asyncio.sleep(0)
    assert not answer.started
    stream.feed("a")
    await answer.until(lambda: answer.parts)
    assert answer.headers["x-worker"] == "gpu-7"
    await answer.leave()


async def test_a_worker_that_fails_before_the_first_chunk_has_a_status_of_its_own() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    (await world.gateway.submitted()).start().fail(EngineError("the engine raised"))
    assert (await answer.whole()).status == 500


async def test_a_request_that_waits_for_long_is_kept_alive_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.EventWriter, "hold", 0.01)
    monkeypatch.setattr(streaming, "KEEPALIVE_INTERVAL", 0.01)
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    stream = await world.gateway.submitted()
    await answer.until(lambda: len(answer.parts) >= 3)
    assert answer.status == 200
    assert "x-worker" not in answer.headers
    assert set(answer.parts) == {b": waiting\n\n"}
    stream.fail(QueueFullError("too late for a status"))
    assert datas((await answer.whole()).body)[0]["error"]["code"] == "queue_full"


async def test_an_answer_that_does_not_stream_is_not_kept_alive_so_that_its_status_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events.EventWriter, "hold", 0.01)
    monkeypatch.setattr(streaming, "KEEPALIVE_INTERVAL", 0.01)
    world = World()
    answer = world.post(CHAT, chat())
    stream = await world.gateway.submitted()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await eventually(lambda: loop.time() - began > 0.2)
    stream.start().feed("a")
    await eventually(lambda: loop.time() - began > 0.4)
    assert not answer.started
    assert not answer.parts
    stream.fail(QueueFullError("late, and with its own status all the same"))
    assert (await answer.whole()).status == 429


@pytest.mark.parametrize(
    ("outlook", "comment"),
    [
        (Outlook(3, 12, 7.2), b": waiting about place=3 of 12 forecast=8s\n\n"),
        (Outlook(3, 12, None), b": waiting about place=3 of 12\n\n"),
    ],
)
async def test_who_waits_is_told_its_place_until_it_starts(
    outlook: Outlook, comment: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events.EventWriter, "hold", 0.01)
    monkeypatch.setattr(streaming, "KEEPALIVE_INTERVAL", 0.01)
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    stream = await world.gateway.submitted()
    stream.real.outlook = outlook
    await answer.until(lambda: len(answer.parts) >= 3)
    assert set(answer.parts) == {comment}
    stream.start()
    await answer.until(lambda: answer.parts[-1] == b": waiting\n\n")
    await answer.leave()


async def test_a_stream_that_moves_says_so_at_once_and_at_the_end() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    stream = (await world.gateway.submitted()).start("w1").feed("a")
    await answer.until(lambda: answer.parts)
    now = stream.life.submitted_at
    stream.life.on_obituary("instance-of-w1", now, in_order=False)
    stream.real.notice()
    await answer.until(lambda: answer.parts[-1] == b": moving from=w1\n\n")
    stream.move("w2")
    await answer.until(lambda: answer.parts[-1] == b": moved worker=w2 attempts=2\n\n")
    stream.feed("b").end()
    await answer.whole()
    assert re.match(rb": worker=w2 attempts=2 queue_time=\d+\.\d{3}\n\ndata: ", answer.parts[-1].split(b'"b"')[0])
    assert answer.body.count(b"attempts=2") == 2
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_a_move_while_the_client_does_not_wait_is_told_at_the_end() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    stream = (await world.gateway.submitted()).start("w1").feed("a")
    await answer.until(lambda: answer.parts)
    stream.feed("b").move("w2").feed("c").end()
    await answer.whole()
    assert b"moved" not in answer.body
    assert b"\n\n: worker=w2 attempts=2 queue_time=" in answer.body


async def test_headers_that_went_out_too_early_are_made_up_for_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events.EventWriter, "hold", 0.01)
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    stream = await world.gateway.submitted()
    await answer.until(lambda: answer.parts)
    assert "x-worker" not in answer.headers
    stream.start("w 1").feed("a").fail(EngineError("the engine raised"))
    await answer.whole()
    last = answer.parts[-1].split(b"\n\n")
    assert last[0].startswith(b": worker=w%201 attempts=1 queue_time=0.")
    assert b"engine_error" in last[1]


async def test_an_answer_whose_headers_say_it_all_has_no_comment() -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=True))
    (await world.gateway.submitted()).start().feed("a").end()
    assert b":" not in {part[:1] for part in (await answer.whole()).body.split(b"\n\n")}


async def test_a_whole_answer_that_moved_names_its_last_worker_and_both_attempts() -> None:
    world = World()
    answer = world.post(CHAT, chat())
    (await world.gateway.submitted()).start("w1").feed("a").move("w2").feed("b").end()
    await answer.whole()
    assert answer.json()["choices"][0]["message"]["content"] == "ab"
    assert (answer.headers["x-worker"], answer.headers["x-attempts"]) == ("w2", "2")


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_cancels_its_request(started: bool, streams: bool) -> None:
    world = World()
    answer = world.post(CHAT, chat(stream=streams))
    stream = await world.gateway.submitted()
    if started:
        stream.start().feed("a")
        if streams:
            await answer.until(lambda: answer.parts)
    await answer.leave()
    assert stream.cancelled.is_set()
    assert not answer.complete


async def test_a_stream_has_to_be_read_soon_after_its_deadline() -> None:
    world = World(request_timeout=100.0)
    answer = world.post(CHAT, chat(stream=True))
    stream = (await world.gateway.submitted()).start().feed("a")
    await answer.until(lambda: answer.parts)
    assert answer.client.read_until == stream.life.deadline + streaming.LAST_READ
    stream.end()
    await answer.whole()
    assert answer.client.read_until is None


async def test_a_worker_with_a_strange_name_breaks_no_header() -> None:
    world = World()
    answer = world.post(CHAT, chat())
    (await world.gateway.submitted()).start("é\r\nx: y").end()
    assert (await answer.whole()).headers["x-worker"] == "%C3%A9%0D%0Ax:%20y"


BAD_BODIES = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"{", id="cut off"),
    pytest.param(b"no json", id="no JSON"),
    pytest.param(b'{"model":"a","messages":[{"role":"u"}]} x', id="more after it"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b"null", id="null"),
    pytest.param(b'{"messages":[{"role":"user"}]}', id="no model"),
    pytest.param(b'{"model":"a"}', id="no messages"),
    pytest.param(b'{"model":"a","messages":[]}', id="empty messages"),
    pytest.param(b'{"model":"a","messages":["hi"]}', id="a message that is a text"),
    pytest.param(b'{"model":"a","messages":[{"content":"hi"}]}', id="a message without a role"),
    pytest.param(b'{"model":1,"messages":[{"role":"user"}]}', id="a model that is a number"),
    pytest.param(b'{"model":"","messages":[{"role":"user"}]}', id="an empty model"),
    pytest.param(b'{"model":"a\\u0000b","messages":[{"role":"user"}]}', id="NUL in the model"),
    pytest.param(b'{"model":"' + b"a" * 300 + b'","messages":[{"role":"user"}]}', id="a long model"),
    pytest.param(b'{"model":"a","messages":[{"role":"user"}],"stream":"yes"}', id="stream is a text"),
    pytest.param(b'{"model":"a","messages":[{"role":"user"}],"x":NaN}', id="NaN"),
    pytest.param(b'{"model":"\\ud800","messages":[{"role":"user"}]}', id="a lone surrogate"),
    pytest.param(b'{"model":"a","messages":[{"role":"user","content":"\\udc00"}]}', id="one in the content"),
    pytest.param(b'{"model":"a","messages":[{"role":"user","content":"\xff"}]}', id="no UTF-8"),
    pytest.param(b'{"model":"a","messages":' + b"[" * 99_999 + b"]" * 99_999 + b"}", id="deep messages"),
    pytest.param(b'{"model":"a","messages":[{"role":"u"}],"x":' + b'{"a":' * 99_999 + b"1", id="deep elsewhere"),
]


@pytest.mark.parametrize("body", BAD_BODIES)
async def test_a_malformed_body_is_told_so_in_a_sentence(body: bytes) -> None:
    answer = await World().post(CHAT, body).whole()
    assert answer.status == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert 20 < len(error["message"]) < 300
    assert "Error" not in error["message"]
    assert "<class" not in error["message"]


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    world = World(max_body_bytes=1000)
    answer = await world.post(CHAT, chat(), {"Content-Length": "1001"}).whole()
    assert answer.status == 413
    assert "1000" in answer.json()["error"]["message"]
    assert answer._sent is False


async def test_a_body_that_turns_out_too_large_is_refused() -> None:
    world = World(max_body_bytes=1000)
    answer = await world.post(CHAT, chat(x="a" * 1000), {"Content-Length": "5"}).whole()
    assert answer.status == 413


async def test_the_models_are_listed_with_what_is_known_of_them() -> None:
    world = World()
    world.announce("w1", "tiny", "org/big", started_at=1234.5)
    answer = await world.get("/v1/models").whole()
    assert answer.json()["object"] == "list"
    assert [model["id"] for model in answer.json()["data"]] == ["org/big", "tiny"]
    one = {
        "id": "org/big",
        "object": "model",
        "created": 1234,
        "owned_by": "broker-controller",
        "abilities": ["chat", "completion"],
        "context_length": None,
    }
    assert answer.json()["data"][0] == one
    assert (await world.get("/v1/models/org/big").whole()).json() == one


async def test_an_unknown_model_is_a_404_that_names_the_served_ones() -> None:
    world = World()
    world.announce("w1", "tiny")
    answer = await world.get("/v1/models/huge").whole()
    assert answer.status == 404
    assert "tiny" in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("header", "wish"), [("never", ResumeMode.NEVER), (" Prefix", ResumeMode.PREFIX), (None, None)]
)
async def test_a_clients_wish_for_the_middle_of_an_answer_is_passed_on(
    header: str | None, wish: ResumeMode | None
) -> None:
    world = World()
    answer = world.post(CHAT, chat(), headers={} if header is None else {"X-Resume": header})
    stream = await world.gateway.submitted()
    assert stream.submission.resume is wish
    stream.start().feed("a").end()
    assert (await answer.whole()).status == 200


async def test_a_wish_that_is_none_of_the_three_is_refused() -> None:
    answer = World().post(CHAT, chat(), headers={"X-Resume": "always"})
    await answer.whole()
    assert answer.status == 400
    assert b"X-Resume has to be one of never, prefix, replay" in answer.body


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("end", ["complete", "engine_error", "left"])
async def test_an_access_line_says_what_became_of_the_answer(
    streams: bool, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="broker_controller.access")
    world = World()
    answer = world.post(CHAT, chat(stream=streams))
    stream = (await world.gateway.submitted()).start("w1").feed("a", "b")
    if streams:
        await answer.until(lambda: answer.parts)
    match end:
        case "complete":
            stream.end(usage=Usage(7, 5))
            await answer.whole()
        case "engine_error":
            stream.fail(EngineError("it raised"))
            await answer.whole()
        case _:
            await answer.leave()
    (line,) = (record.getMessage() for record in caplog.records if record.name == "broker_controller.access")
    tokens = 5 if end == "complete" else 0
    assert re.search(rf" model=\S+ worker=w1 outcome={end} wait_ms=\d+\.\d ttft_ms=\d+\.\d tokens={tokens}$", line), (
        line
    )
