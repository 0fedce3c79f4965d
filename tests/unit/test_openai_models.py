"""What servers say of themselves, each in its own way, and which models a worker makes of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.unit import odd_http
from tests.unit.odd_http import Asked, OddServer, odd_server, whole
from tests.waiting import eventually
from workers_shim import Worker
from workers_shim.engines import openai_models, openai_start, openai_watch
from workers_shim.engines.http_client import HttpClient, parse_url
from workers_shim.engines.openai import OpenAIServer
from workers_shim.engines.openai_models import DownError, KeyRefusedError, SlowError, Survey, Surveyor, UpstreamModel
from workers_shim.engines.openai_watch import Offer, Wanted, Watch

VLLM = {"/health": b"", "/v1/models": b'{"object":"list","data":[{"id":"m","owned_by":"vllm","max_model_len":4096}]}'}
OLLAMA = {"/v1/models": b'{"data":[{"id":"a:latest","owned_by":"library"},{"id":"b:7b","owned_by":"library"}]}'}
LLAMACPP = {
    "/health": b'{"status":"ok"}',
    "/v1/models": b'{"data":[{"id":"g.gguf","owned_by":"llamacpp","meta":{"n_ctx":8192,"n_ctx_train":9999}}]}',
    "/props": b'{"total_slots":4,"default_generation_settings":{"n_ctx":2048},"modalities":{"vision":true}}',
}


class Pages:
    """A server of pages that a test changes."""

    def __init__(self, pages: dict[str, bytes]) -> None:
        self.pages = pages

    async def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        body = self.pages.get(asked.path)
        writer.write(whole(b"{}", "404 Not Found") if body is None else whole(body))


@contextlib.asynccontextmanager
async def surveyed(pages: dict[str, bytes]) -> AsyncIterator[tuple[OddServer, Surveyor]]:
    async with odd_server(Pages(pages).answer) as server:
        client = HttpClient(parse_url(server.url), secret="key")
        yield server, Surveyor(client)
        client.close()


@pytest.mark.parametrize(
    ("pages", "survey"),
    [
        (VLLM, Survey((UpstreamModel("m", 4096, counts=True),))),
        (OLLAMA, Survey((UpstreamModel("a:latest"), UpstreamModel("b:7b")))),
        (LLAMACPP, Survey((UpstreamModel("g.gguf", 2048, takes_images=True, counts=True),), slots=4)),
        ({"/v1/models": b'{"data":[{"id":"' + b"x" * 201 + b'"},{"id":1},2]}'}, Survey(())),
        ({}, Survey(None)),
    ],
    ids=["vllm", "ollama", "llama-server", "names that cannot be", "no list"],
)
async def test_what_each_server_says(pages: dict[str, bytes], survey: Survey) -> None:
    async with surveyed(pages) as (server, surveyor):
        assert await surveyor.look() == survey

    assert {asked.fields["authorization"] for asked in server.asked} == {"Bearer key"}


async def test_a_page_that_a_server_does_not_have_is_asked_for_once() -> None:
    async with surveyed(OLLAMA) as (server, surveyor):
        await surveyor.look()
        await surveyor.look()

    assert [asked.path for asked in server.asked] == ["/health", "/v1/models", "/v1/models"]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (whole(b"loading", "503 Unavailable"), DownError, "/health with HTTP 503"),
        (whole(b"no", "401 Unauthorized"), DownError, "HTTP 401"),
        (whole(b"<html>"), DownError, "no JSON"),
        (b"SSH-2.0\r\n\r\n", DownError, "no HTTP"),
    ],
)
async def test_a_server_that_is_not_well_is_down(answer: bytes, error: type[Exception], words: str) -> None:
    async def write(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with odd_server(write) as server:
        client = HttpClient(parse_url(server.url))
        with pytest.raises(error, match=words):
            await Surveyor(client).look()
        client.close()


async def test_a_refused_key_is_told_apart() -> None:
    async def write(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"") if asked.path == "/health" else whole(b"no", "401 Unauthorized"))

    async with odd_server(write) as server:
        client = HttpClient(parse_url(server.url))
        with pytest.raises(KeyRefusedError, match="API key"):
            await Surveyor(client).look()
        client.close()


async def test_a_server_that_is_too_busy_to_answer_is_slow_and_not_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_models, "QUESTION_TIMEOUT", 0.01)
    async with odd_server(odd_http.never) as server:
        with pytest.raises(SlowError):
            await Surveyor(HttpClient(parse_url(server.url))).look()


# --- what is served of it


def test_without_names_all_that_is_listed_is_served() -> None:
    survey = Survey((UpstreamModel("a", 10), UpstreamModel("b", takes_images=True)))

    assert Wanted(None, ("chat",)).offers(survey) == {"a": Offer(("chat",), 10), "b": Offer(("chat", "vision"), None)}
    assert Wanted(None, ("chat",), abilities_are_final=True).offers(survey)["b"].abilities == ("chat",)


def test_what_is_named_is_served_listed_or_not() -> None:
    survey = Survey((UpstreamModel("a", 10), UpstreamModel("b", 20)))

    assert Wanted({"x": "a", "llama3": "llama3"}, ("chat",)).offers(survey) == {
        "x": Offer(("chat",), 10),
        "llama3": Offer(("chat",), None),
    }
    assert Wanted({"x": "x"}, ("chat",)).offers(Survey(None)) == {"x": Offer(("chat",), None)}


# --- before the start


async def test_a_server_is_waited_for_until_it_has_a_model(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openai_start, "RETRY_INTERVAL", 0.01)
    pages = Pages({"/v1/models": b'{"data": []}'})
    async with odd_server(pages.answer) as server:
        await server.stop()
        waiting = asyncio.create_task(asyncio.to_thread(openai_start.wait_for_server, parse_url(server.url), None))
        await eventually(lambda: "cannot be reached" in caplog.text)
        await server.start()
        await eventually(lambda: server.asked)
        assert not waiting.done()
        pages.pages = VLLM
        await waiting

    assert len(caplog.records) == 1


async def test_nobody_waits_for_a_key_to_become_right() -> None:
    async def write(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"", "404 Not Found") if asked.path == "/health" else whole(b"no", "401 Unauthorized"))

    async with odd_server(write) as server:
        with pytest.raises(KeyRefusedError):
            await asyncio.to_thread(openai_start.wait_for_server, parse_url(server.url), "wrong")


# --- while it runs


class Served(Worker):
    """A worker that is taken for live until it leaves."""

    has_left = False

    @property
    def alive(self) -> bool:
        return not self.has_left

    @property
    def served(self) -> dict[str, Any]:
        return {card.name: card.context_length for card in self.models}


@contextlib.asynccontextmanager
async def watched(pages: dict[str, bytes]) -> AsyncIterator[tuple[Pages, OddServer, Served, OpenAIServer]]:
    made = Pages(pages)
    async with odd_server(made.answer) as server:
        worker, engine = Served("w"), OpenAIServer(parse_url(server.url))
        watch = Watch(worker, engine, Wanted(None, ("chat",)), {})
        watch.start()
        try:
            await eventually(lambda: worker.served)
            yield made, server, worker, engine
        finally:
            worker.has_left = True
            watch.look_now("the test is over")
            await asyncio.to_thread(watch._thread.join)


def listing(**lengths: int | None) -> dict[str, bytes]:
    data = [{"id": name, "max_model_len": length} for name, length in lengths.items()]
    return {"/v1/models": json.dumps({"data": data}).encode()}


async def test_models_come_and_go_and_change_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_watch, "INTERVAL", 0.01)
    async with watched(listing(a=1, b=2)) as (pages, _, worker, _):
        assert worker.served == {"a": 1, "b": 2}
        pages.pages = listing(b=3, c=None)
        await eventually(lambda: worker.served == {"b": 3, "c": None})


async def test_every_healthy_look_is_told_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_watch, "INTERVAL", 0.01)
    async with watched(listing(a=1)) as (_, server, worker, engine):
        told: list[None] = []
        monkeypatch.setattr(engine, "note_alive", lambda: told.append(None))
        await eventually(lambda: len(told) > 1)
        await server.stop()
        await eventually(lambda: worker.served == {})
        told.clear()
        # As soon as it is served again it has been told, and not before.
        assert not told
        await server.start()
        await eventually(lambda: worker.served)
        assert told


async def test_a_request_that_meets_trouble_has_the_server_looked_at_at_once() -> None:
    async with watched(listing(a=1)) as (_, server, worker, engine):
        await server.stop()
        engine.on_trouble("a request said so")
        await eventually(lambda: worker.served == {})


async def test_the_models_of_a_server_that_is_away_are_withdrawn_and_come_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openai_watch, "INTERVAL", 0.01)
    async with watched(listing(a=1)) as (_, server, worker, _):
        await server.stop()
        await eventually(lambda: worker.served == {})
        await server.start()
        await eventually(lambda: worker.served == {"a": 1})

    assert caplog.text.count("server is away") == 1


async def test_a_slow_server_is_left_alone_for_some_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_watch, "INTERVAL", 0.01)
    async with watched(listing(a=1)) as (pages, server, worker, _):
        monkeypatch.setattr(openai_models, "QUESTION_TIMEOUT", 0.01)
        server.answer = odd_http.never
        asked = len(server.asked)
        await eventually(lambda: worker.served == {})
        assert len(server.asked) - asked >= openai_watch.SLOW_LOOKS
        monkeypatch.setattr(openai_models, "QUESTION_TIMEOUT", 5.0)
        server.answer = pages.answer
        await eventually(lambda: worker.served == {"a": 1})


async def test_a_change_that_the_broker_does_not_take_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_watch, "INTERVAL", 0.01)
    refusals = iter([TimeoutError(), TimeoutError()])
    add_model = Worker.add_model

    def add(worker: Worker, name: str, generate: Any, **how: Any) -> None:
        if (refusal := next(refusals, None)) is not None:
            raise refusal
        add_model(worker, name, generate, **how)

    monkeypatch.setattr(Worker, "add_model", add)
    async with watched(listing(a=1)) as (_, _, worker, _):
        assert worker.served == {"a": 1}
