"""The engine `openai` against a server that answers by hand: bytes, cancels, and each way in which a server fails.

The odd server stands for vLLM and others that cannot be had here; the real llama.cpp is in the integration tests.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind, Operation, Usage
from tests.unit import odd_http
from tests.unit.engine_runs import had_after, over
from tests.unit.fake_stream import PATIENCE, FakeStream, assignment
from tests.unit.odd_http import END, EVENTS, Asked, OddServer, event, odd_server, whole
from tests.waiting import eventually
from workers_shim import Chunk, Worker
from workers_shim.engines.http_client import parse_url
from workers_shim.engines.openai import OpenAIServer

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
FIRST = b'{"id":"1", "choices":[{"index":0,"delta":{"content":"Hel"}}],"unknown":[1.0]}'
LAST = (
    b'{"choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
)
DONE = event(b"[DONE]") + END


class Running:
    """The engine behind the model `m`."""

    def __init__(self, server: OddServer, **how: Any) -> None:
        self.server = server
        self.troubles: list[str] = []
        self.engine = OpenAIServer(parse_url(server.url), **how)
        self.engine.on_trouble = self.troubles.append
        worker = Worker("w")
        self.engine.register(worker, "m", abilities=("chat", "completion", "embedding"), context_length=None)
        self.executor = worker.engines

    def start(
        self, body: dict[str, Any] | None = None, operation: Operation = Operation.CHAT, **given: Any
    ) -> FakeStream:
        stream = FakeStream()
        raw = json.dumps(body or CHAT).encode()
        self.executor.start(assignment(body=raw, operation=operation, **given), stream)
        return stream

    async def answer(
        self, body: dict[str, Any] | None = None, operation: Operation = Operation.CHAT, **given: Any
    ) -> FakeStream:
        stream = self.start(body, operation, **given)
        await over(stream)
        return stream


@contextlib.asynccontextmanager
async def running(answer: odd_http.Answer, **how: Any) -> AsyncIterator[Running]:
    async with odd_server(answer) as server:
        run = Running(server, **how)
        yield run
        assert await run.executor.aclose(PATIENCE)


def writes(*parts: bytes, then: odd_http.Answer | None = None) -> odd_http.Answer:
    """Each part is a write of its own."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if then is not None:
            await then(asked, writer)

    return answer


async def hang_up(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def payloads(stream: FakeStream) -> list[bytes | None]:
    return [item.payload if isinstance(item, Chunk) else None for item in stream.items]


async def test_the_servers_chunks_come_down_byte_for_byte() -> None:
    async with running(writes(EVENTS, event(FIRST), event(LAST) + DONE)) as run:
        stream = await run.answer()

    assert payloads(stream) == [FIRST, LAST]
    assert stream.last_words == [("end", "length", Usage(1, 2))]
    [asked] = run.server.asked
    assert (asked.path, json.loads(asked.body)) == ("/v1/chat/completions", CHAT)
    assert not run.troubles


async def test_a_whole_answer_comes_down_as_it_is() -> None:
    body = b'{\n "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "more": {"x": 1.50}\n}'
    async with running(writes(whole(body))) as run:
        stream = await run.answer(CHAT | {"stream": False})

    assert payloads(stream) == [body]
    assert stream.last_words == [("end", "stop", None)]


async def test_an_embedding_comes_down_as_it_is() -> None:
    body = b'{"data":[{"embedding":[0.10,-2e-1]}],"usage":{"prompt_tokens":2,"total_tokens":2}}'
    async with running(writes(whole(body))) as run:
        stream = await run.answer({"model": "m", "input": ["a"]}, Operation.EMBEDDING)

    assert payloads(stream) == [body]
    assert run.server.asked[0].path == "/v1/embeddings"


async def test_several_prompts_go_up_in_one_request() -> None:
    body = {"model": "m", "prompt": ["a", [1, 2]]}
    async with running(writes(whole(b'{"choices":[{"index":0,"text":"x"},{"index":1,"text":"y"}]}'))) as run:
        stream = await run.answer(body, Operation.COMPLETION)

    assert stream.last_words[0][0] == "end"
    [asked] = run.server.asked
    assert json.loads(asked.body) == body


async def test_the_server_has_the_last_word_on_what_is_right() -> None:
    body = CHAT | {"max_tokens": -1, "temperature": -1, "seed": 1.0, "images": [{"b64": "A"}], "stop": [13]}
    async with running(writes(EVENTS, event(LAST) + DONE)) as run:
        stream = await run.answer(body)

    assert stream.last_words[0][0] == "end"
    assert json.loads(run.server.asked[0].body) == body


async def test_llavas_client_gets_the_text() -> None:
    parts = (b'{"choices":[{"text":" Hel"}]}', b'{"choices":[{"text":"lo","finish_reason":"stop"}]}')
    async with running(writes(EVENTS, *map(event, parts), DONE)) as run:
        stream = await run.answer({"model": "m", "prompt": "hi"}, Operation.LLAVA)

    assert stream.items == [" Hel", "lo"]
    assert run.server.asked[0].path == "/v1/completions"


async def test_a_model_can_have_another_name_here() -> None:
    async with running(writes(EVENTS, event(LAST), DONE), upstream_names={"m": "org/model"}) as run:
        await run.answer()

    assert json.loads(run.server.asked[0].body) == CHAT | {"model": "org/model"}


async def test_one_connection_serves_one_request_after_the_other() -> None:
    async with running(writes(EVENTS, event(LAST), event(b"[DONE]"), END)) as run:
        for _ in range(3):
            await run.answer()

    assert run.server.connections == 1


async def test_a_cancel_closes_the_servers_connection() -> None:
    async with running(writes(EVENTS, event(FIRST), then=odd_http.never)) as run:
        stream = run.start()
        await asyncio.to_thread(stream.wait_for_items, 1)
        stream.cancel()
        await over(stream)
        await eventually(lambda: run.server.left == 1)


async def test_a_cancel_is_as_fast_before_the_first_chunk_and_for_a_whole_answer() -> None:
    async with running(odd_http.never) as run:
        for body in (CHAT, CHAT | {"stream": False}):
            run.server.left = 0
            run.server.asked.clear()
            stream = run.start(body)
            await eventually(lambda: run.server.asked)
            stream.cancel()
            await over(stream)
            await eventually(lambda: run.server.left == 1)


async def test_comments_of_the_server_are_signs_of_life() -> None:
    async with running(writes(EVENTS, odd_http.chunk(b": ping\n\n"), then=odd_http.never)) as run:
        stream = run.start()
        await eventually(lambda: stream.progress_calls)
        assert stream.items == []
        stream.cancel()
        await over(stream)


async def test_while_a_whole_answer_is_generated_the_servers_health_is_its_progress() -> None:
    async with running(odd_http.never) as run:
        whole_answer, streamed = run.start(CHAT | {"stream": False}), run.start()
        await eventually(lambda: len(run.server.asked) == 2)
        run.engine.note_alive()
        assert (whole_answer.progress_calls, streamed.progress_calls) == (1, 0)
        for stream in (whole_answer, streamed):
            stream.cancel()
            await over(stream)
        run.engine.note_alive()

    assert whole_answer.progress_calls == 1


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (whole(b'{"error": {"message": "too long"}}', "400 Bad Request"), FailureKind.REQUEST, "too long"),
        (whole(b"", "501 Not Implemented"), FailureKind.REQUEST, "HTTP 501"),
        (whole(b'{"error": "no such model"}', "404 Not Found"), FailureKind.NOT_SERVED, "no such model"),
        (whole(b"no", "401 Unauthorized"), FailureKind.NOT_SERVED, "API key"),
        (whole(b"later", "429 Too Many", "Retry-After: 0\r\n"), FailureKind.NOT_SERVED, "later"),
        (whole(b"later", "503 Unavailable", "Retry-After: 0\r\n"), FailureKind.NOT_SERVED, "later"),
        (whole(b"boom", "500 Oh"), FailureKind.ENGINE, "boom"),
        (whole(b"<html>"), FailureKind.ENGINE, "no JSON"),
        (EVENTS + event(b'{"error":{"code":500,"message":"boom"}}') + DONE, FailureKind.ENGINE, "boom"),
        (EVENTS + END, FailureKind.ENGINE, "without a finish_reason"),
    ],
)
async def test_each_failure_of_a_server_has_its_kind(answer: bytes, kind: FailureKind, words: str) -> None:
    async with running(writes(answer)) as run:
        stream = await run.answer()

    assert stream.failure[0] is kind
    assert words in stream.failure[1]
    assert stream.items == []


async def test_a_server_that_is_not_there_is_unavailable_and_the_worker_is_told() -> None:
    async with running(odd_http.never) as run:
        await run.server.stop()
        stream = await run.answer()

    assert stream.failure[0] is FailureKind.NOT_SERVED
    assert run.troubles == [stream.failure[1]]


@pytest.mark.parametrize("body", [CHAT, CHAT | {"stream": False}])
async def test_a_server_that_dies_before_its_first_chunk_is_not_every_servers_to_die_of(body: dict[str, Any]) -> None:
    async with running(hang_up) as run:
        stream = await run.answer(body)

    assert stream.failure[0] is FailureKind.ENGINE
    assert len(run.troubles) == 1


@pytest.mark.parametrize("end", [b"", END], ids=["cut", "ended without an end"])
async def test_a_server_that_dies_in_the_middle_has_lost_the_answer(end: bytes) -> None:
    async with running(writes(EVENTS, event(FIRST) + end, then=hang_up)) as run:
        stream = await run.answer()

    assert payloads(stream) == [FIRST]
    assert stream.failure[0] is FailureKind.LOST
    assert len(run.troubles) == 1


async def test_an_answer_that_is_repeated_has_a_seed_and_only_what_is_new_of_it_comes() -> None:
    had = had_after([Chunk(payload=FIRST)])
    body = CHAT | {"temperature": 1}
    async with running(writes(EVENTS, event(FIRST.replace(b'"1"', b'"2"')), event(LAST), DONE), resume="replay") as run:
        stream = await run.answer(body, text=had.text, choices=had.choices, next_seq=had.next_seq)

    assert payloads(stream) == [LAST]
    assert isinstance(json.loads(run.server.asked[0].body)["seed"], int)


async def test_without_being_told_an_answer_does_not_go_on_in_the_middle() -> None:
    had = had_after([Chunk(payload=FIRST)])
    async with running(odd_http.never) as run:
        stream = await run.answer(text=had.text, choices=had.choices, next_seq=had.next_seq)

    assert stream.failure[0] is FailureKind.NOT_RESUMABLE
    assert not run.server.asked
