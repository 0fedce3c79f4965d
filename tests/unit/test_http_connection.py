"""A request that never comes, never ends, or is answered before its end."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvicorn
from uvicorn.server import ServerState

from broker_controller.http import call, connection
from broker_controller.http.connection import BoundedConnection, look_after
from tests.unit.http_double import World
from tests.waiting import eventually

WITHIN = 30.0
SOON = 0.05
LIMIT = 1000
REQUEST = b"GET /test_connection HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Client]]


@pytest.fixture
async def state() -> ServerState:
    return ServerState()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("HEAD_TIMEOUT", "LOOK_INTERVAL"):
        monkeypatch.setattr(connection, bound, SOON)


@pytest.fixture
async def connect(state: ServerState) -> AsyncIterator[Connect]:
    """The application on a real socket, where bodies may have LIMIT bytes."""
    app = World(max_body_bytes=LIMIT).app
    config = uvicorn.Config(app, interface="asgi3", http=BoundedConnection, log_config=None, lifespan="off", ws="none")
    config.load()

    def serve() -> BoundedConnection:
        return BoundedConnection(config=config, server_state=state, app_state={})

    clients: list[asyncio.StreamWriter] = []

    async def open_one() -> Client:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        clients.append(writer)
        return reader, writer

    async with await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0) as server:
        watch = asyncio.create_task(look_after(state.connections))
        yield open_one
        for client in clients:
            client.close()
        await eventually(lambda: not state.connections)
        watch.cancel()


async def all_of(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), WITHIN)


async def trickle(writer: asyncio.StreamWriter, state: ServerState, byte: bytes) -> None:
    """Until the other side has closed."""

    def closed() -> bool:
        writer.write(byte)
        return not state.connections

    await eventually(closed, WITHIN)


@pytest.mark.parametrize("sent", [b"", REQUEST[:20], REQUEST + REQUEST[:20]], ids=["nothing", "half", "one and a half"])
async def test_a_client_that_does_not_go_on_is_left(hasty: None, connect: Connect, sent: bytes) -> None:
    reader, writer = await connect()
    writer.write(sent)
    assert (await all_of(reader)).endswith(b'"success"') is sent.startswith(REQUEST)


async def test_line_breaks_for_ever_are_no_request(hasty: None, connect: Connect, state: ServerState) -> None:
    reader, writer = await connect()
    writer.write(REQUEST)
    await asyncio.wait_for(reader.readuntil(b"success"), WITHIN)
    await trickle(writer, state, b"\r\n")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (POST + b"Content-Length: 9999\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"a" * 2000, 413),
        (b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", 404),
        (b"POST /list_models HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", 200),
        (b"GET /test_connection HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", 200),
    ],
    ids=["too large", "too large in chunks", "no such path", "no body needed", "a GET"],
)
async def test_a_client_that_sends_on_after_its_answer_is_left(
    connect: Connect, state: ServerState, head: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER", SOON)
    reader, writer = await connect()
    writer.write(head)
    answer = await all_of(reader)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1
    await trickle(writer, state, b"a")


async def test_a_client_can_send_all_of_it_and_read_the_answer_then(connect: Connect) -> None:
    reader, writer = await connect()
    size = 20 * 1024 * 1024
    writer.write(POST + b"Content-Length: %d\r\n\r\n" % size)
    for _ in range(20):
        writer.write(b"a" * (size // 20))
        await asyncio.wait_for(writer.drain(), WITHIN)
    assert (await all_of(reader)).startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_does_not_come_is_answered_and_closed(
    connect: Connect, state: ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "BODY_TIMEOUT", SOON)
    monkeypatch.setattr(connection, "LINGER", SOON)
    reader, writer = await connect()
    writer.write(POST + b"Content-Length: 99\r\n\r\n{")
    answer = await all_of(reader)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"the body of the request was not here after" in answer
    await trickle(writer, state, b"a")


async def test_a_body_that_comes_late_leaves_the_connection_open(connect: Connect) -> None:
    reader, writer = await connect()
    for _ in range(2):
        writer.write(POST + b"Content-Length: 2\r\n\r\n")
        await writer.drain()
        writer.write(b"{}")
        answer = await asyncio.wait_for(reader.readuntil(b"}}"), WITHIN)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" not in answer


async def test_a_head_that_is_too_large_is_told_to_a_client_that_still_sends(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(REQUEST[:-2])
    for _ in range(30):
        writer.write(b"X-A: " + b"a" * 10_000 + b"\r\n")
        await asyncio.wait_for(writer.drain(), WITHIN)
    assert (await all_of(reader)).startswith(b"HTTP/1.1 431 ")


async def test_what_is_no_http_is_told_to_a_client_that_still_sends(connect: Connect) -> None:
    reader, writer = await connect()
    for _ in range(30):
        writer.write(b"\0" * 100_000)
        await asyncio.wait_for(writer.drain(), WITHIN)
    assert (await all_of(reader)).startswith(b"HTTP/1.1 400 ")


async def test_a_server_that_leaves_closes_after_the_answer(connect: Connect, state: ServerState) -> None:
    reader, writer = await connect()
    writer.write(POST + b"Content-Length: 2\r\n\r\n")
    await eventually(lambda: state.tasks)
    for one in state.connections:
        one.shutdown()
    writer.write(b"{}")
    assert b"connection: close" in await all_of(reader)


@pytest.mark.parametrize(
    "sent", [REQUEST, POST + b"Content-Length: 100000\r\n\r\nhalf"], ids=["a whole request", "half a body"]
)
async def test_a_connection_that_is_gone_is_freed_at_once(connect: Connect, state: ServerState, sent: bytes) -> None:
    # Without the collector, that is: it seldom runs, and thousands of connections would wait for it.
    gc.disable()
    try:
        reader, writer = await connect()
        writer.write(sent)
        await reader.read(10)
        (seen,) = [weakref.ref(each) for each in state.connections]
        writer.close()
        await eventually(lambda: seen() is None, WITHIN)
    finally:
        gc.enable()
