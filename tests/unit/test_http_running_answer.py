"""What comes on a connection while an answer is written to it, and a client that does not read its answer.

On uvloop, as in production: what a transport does with unsent bytes is its own.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from broker_controller.http import connection, unsent
from broker_controller.http.connection import BoundedConnection, look_after
from broker_controller.http.unsent import UnsentWatch
from tests.waiting import eventually

WITHIN = 30.0
SOON = 0.05
LARGE = 20 * 1024 * 1024
"""Bytes: no two sockets hold so much."""
STREAM = b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"
WHOLE = b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n"
FLOOD = b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSED = b"GET /whole HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
ENDLESS_HEAD = b"GET / HTTP/1.1\r\nX-A: " + b"a" * 600


class Application:
    """Streams until it is told to end, or answers with a large body."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.seconds = WITHIN
        """That a stream has to be read in."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's."""
        await send({"type": "http.response.start", "status": 200, "headers": self._headers(scope["path"])})
        if scope["path"] != "/whole":
            first = b"first," if scope["path"] == "/stream" else b"a" * LARGE
            scope["state"]["client"].read_until = time.monotonic() + self.seconds
            await send({"type": "http.response.body", "body": first, "more_body": True})
            await self.may_end.wait()
            await send({"type": "http.response.body", "body": b"last"})
        else:
            await send({"type": "http.response.body", "body": b"a" * LARGE})

    @staticmethod
    def _headers(path: str) -> list[tuple[bytes, bytes]]:
        return [(b"content-length", b"%d" % LARGE)] if path == "/whole" else []


class Scene:
    """One client of an application."""

    def __init__(
        self, application: Application, state: ServerState, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.application = application
        self.state = state
        self.reader = reader
        self.writer = writer

    @property
    def connection(self) -> BoundedConnection:
        (one,) = self.state.connections
        assert isinstance(one, BoundedConnection)
        return one


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    application, state = Application(), ServerState()
    config = uvicorn.Config(application, http=BoundedConnection, log_config=None, lifespan="off", ws="none")
    config.load()

    def serve() -> BoundedConnection:
        return BoundedConnection(config=config, server_state=state, app_state={})

    async with await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        watch = asyncio.create_task(look_after(state.connections))
        yield Scene(application, state, reader, writer)
        writer.close()
        await eventually(lambda: not state.connections)
        watch.cancel()


def on_uvloop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LOOK_INTERVAL", SOON)
    for bound in ("CLOSED_WITHIN", "READ_WITHIN"):
        monkeypatch.setattr(unsent, bound, SOON)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "requests", [CLOSED, WHOLE, WHOLE + STREAM], ids=["closed", "kept alive", "with a next one behind it"]
)
def test_a_client_that_never_reads_its_answer_is_given_up(requests: bytes) -> None:
    async def test() -> None:
        async with scene() as one:
            one.writer.write(requests)
            await eventually(lambda: one.state.total_requests == 1)
            await eventually(lambda: not one.state.connections)

    on_uvloop(test)


@pytest.mark.usefixtures("hasty")
def test_a_client_that_does_not_read_a_stream_has_the_time_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = UnsentWatch.look

    def count(watch: UnsentWatch, now: float) -> None:
        nonlocal looks
        looks += 1
        look(watch, now)

    monkeypatch.setattr(UnsentWatch, "look", count)

    async def test() -> None:
        async with scene() as one:
            one.writer.write(FLOOD)
            await eventually(lambda: looks > 10)
            one.application.may_end.set()
            received = b""
            while not received.endswith(b"last\r\n0\r\n\r\n"):
                received = received[-20:] + await asyncio.wait_for(one.reader.read(2**20), WITHIN)

    on_uvloop(test)


@pytest.mark.usefixtures("hasty")
def test_a_client_that_does_not_read_a_stream_in_its_time_is_given_up() -> None:
    async def test() -> None:
        async with scene() as one:
            one.application.seconds = SOON
            one.writer.write(FLOOD)
            await eventually(lambda: not one.state.connections)
            one.application.may_end.set()

    on_uvloop(test)


def test_a_server_that_leaves_gives_up_who_was_closed_and_does_not_read() -> None:
    async def test() -> None:
        async with scene() as one:
            one.writer.write(CLOSED)
            await eventually(lambda: one.state.total_requests == 1)
            one.connection.give_up_closed()
            await eventually(lambda: not one.state.connections)

    on_uvloop(test)


def test_a_head_is_counted_without_the_body_before_it() -> None:
    size = connection.MAX_HEAD_BYTES
    post = STREAM.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % size)

    async def test() -> None:
        async with scene() as one:
            await eventually(lambda: one.state.connections)
            one.application.may_end.set()
            # The rest of the body and the beginning of the next request are one read.
            for read in (post, b"a" * size + STREAM[:20], STREAM[20:]):
                one.connection.data_received(read)
            for _ in range(2):
                await asyncio.wait_for(one.reader.readuntil(b"last\r\n0\r\n\r\n"), WITHIN)

    on_uvloop(test)


@pytest.mark.parametrize("bad", [ENDLESS_HEAD, b"\x00nonsense\r\n\r\n"], ids=["too large", "no HTTP"])
def test_what_is_refused_while_an_answer_streams_leaves_its_chunks_whole(
    bad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_HEAD_BYTES", 1000)

    async def test() -> None:
        async with scene() as one:
            one.writer.write(STREAM)
            await one.reader.readuntil(b"first,\r\n")

            def refused() -> bool:
                one.writer.write(bad)
                return one.connection._refused

            await eventually(refused)
            one.application.may_end.set()
            assert await asyncio.wait_for(one.reader.read(), WITHIN) == b"4\r\nlast\r\n0\r\n\r\n"

    on_uvloop(test)
