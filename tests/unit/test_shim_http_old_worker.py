"""What an HTTP worker of the old kind may send, and what becomes of it: raw servers on the loopback, no broker."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from workers_shim.cumulative import Answer
from workers_shim.engines.http import old_worker
from workers_shim.engines.http.address import HttpAddress
from workers_shim.engines.http.old_worker import (
    NotThereError,
    OldWorker,
    OldWorkerError,
    RefusedError,
    UnreachableError,
)

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def worker_that(serve: Serve, host: str = "worker.example") -> AsyncIterator[OldWorker]:
    """A worker that gets a request's head and body and writes what it likes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        with contextlib.suppress(ConnectionError):
            await serve(head + await reader.readexactly(length), writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield OldWorker(
            HttpAddress(f"http://{host}:{port}", (f"http://127.0.0.1:{port}",), f"{host}:{port}", ""),
            ssl.create_default_context(),
        )


def sending(*pieces: bytes) -> Serve:
    async def serve(_: bytes, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return serve


async def answers_of(worker: OldWorker) -> list[Answer | None]:
    return [answer async for answer in worker.generate({"prompt": "p"})]


async def test_objects_are_found_wherever_the_network_cuts_them() -> None:
    whole = HEAD + b'{"text": "a b", "error_code": 0}\0' + b'{"text": "a b c", "error_code": 0}\0'

    for cut in range(len(HEAD), len(whole), 7):
        async with worker_that(sending(whole[:cut], whole[cut:])) as worker:
            answers = await answers_of(worker)

        assert answers[-1] == Answer("a b c")


async def test_of_objects_that_came_together_only_the_last_is_read() -> None:
    async with worker_that(sending(HEAD + b'not even JSON\0{"text": "all of it"}\0\0')) as worker:
        assert await answers_of(worker) == [Answer("all of it")]


async def test_a_bare_nul_is_a_sign_of_life() -> None:
    async with worker_that(sending(HEAD + b"\0")) as worker:
        assert await answers_of(worker) == [None]


async def test_a_last_object_without_its_nul_counts() -> None:
    async with worker_that(sending(HEAD + b'{"text": "end"}')) as worker:
        assert await answers_of(worker) == [Answer("end")]


async def test_json_as_python_writes_it_is_read() -> None:
    written = json.dumps({"text": "\ud83d", "logprobs": {"token_logprobs": [float("-inf")]}}).encode()

    async with worker_that(sending(HEAD + written + b"\0")) as worker:
        (answer,) = await answers_of(worker)

    assert answer is not None
    assert answer.text == "\ud83d"


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\0",
        b"[1]\0",
        b'{"text": 5}\0',
        b'{"text": "\xff"}\0',
        b'{"text": ' + b"[" * 100_000 + b"\0",
        b'{"text": "cut of',
    ],
)
async def test_what_is_no_object_of_the_protocol_is_an_error_with_the_workers_address(sent: bytes) -> None:
    async with worker_that(sending(HEAD + sent)) as worker:
        with pytest.raises(OldWorkerError, match=r"worker\.example"):
            await answers_of(worker)


async def test_an_object_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_worker, "MAX_OBJECT_BYTES", 100_000)

    async def endless(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    async with worker_that(endless) as worker:
        with pytest.raises(OldWorkerError, match="more than 100000 bytes"):
            await answers_of(worker)


async def test_a_status_without_end_is_cut() -> None:
    async def endless(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(b" " * 100_000)
            await writer.drain()

    async with worker_that(endless) as worker:
        with pytest.raises(OldWorkerError, match="more than"):
            await worker.ask("/worker_get_status", {})


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (b"404 Not Found", NotThereError),
        (b"405 Method Not Allowed", NotThereError),
        (b"422 Unprocessable Entity", RefusedError),
        (b"500 Internal Server Error", OldWorkerError),
        (b"302 Found\r\nLocation: http://127.0.0.1:1/", OldWorkerError),
    ],
)
async def test_any_other_status_is_an_error_with_its_text_and_redirects_are_not_followed(
    status: bytes, error: type[OldWorkerError]
) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n\r\n" + b"because" * 1000

    async with worker_that(sending(answer)) as worker:
        with pytest.raises(OldWorkerError, match="because") as caught:
            await answers_of(worker)

    assert type(caught.value) is error
    assert len(str(caught.value)) < 3_000


async def test_a_connection_that_breaks_off_is_an_error() -> None:
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n{"text": "one"}\0\0\r\n'

    async with worker_that(sending(chunked)) as worker:
        with pytest.raises(OldWorkerError, match="broke off"):
            await answers_of(worker)


async def test_nobody_listening_is_unreachable(free_port: Callable[[], int]) -> None:
    bases = (f"http://127.0.0.1:{free_port()}",)
    worker = OldWorker(HttpAddress("http://w:1", bases, "w:1", ""), ssl.create_default_context())

    with pytest.raises(UnreachableError, match="http://w:1 cannot be reached"):
        await answers_of(worker)


async def test_the_next_address_of_a_name_is_tried_where_nobody_listens(free_port: Callable[[], int]) -> None:
    async with worker_that(sending(HEAD + b'{"ok": 1}')) as worker:
        address = worker.address
        bases = (f"http://127.0.0.1:{free_port()}", *address.bases)
        worker.address = HttpAddress(address.url, bases, address.host_header, "")

        assert await worker.ask("/worker_get_status", {}) == {"ok": 1}


async def test_a_worker_is_called_by_its_checked_address_with_its_own_name_and_no_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    heads: list[bytes] = []

    async def note(request: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(request)
        writer.write(HEAD + b"{}")
        await writer.drain()

    async with worker_that(note) as worker:
        await worker.ask("/worker_get_status", {})

    assert f"Host: {worker.address.host_header}\r\n".encode() in heads[0]
    assert b"accept-encoding: identity\r\n" in heads[0].lower()


async def test_whoever_stops_reading_closes_the_connection() -> None:
    closed = asyncio.Event()

    async def go_on(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        try:
            while True:
                writer.write(b'{"text": "on and on"}\0')
                await writer.drain()
        finally:
            closed.set()

    async with worker_that(go_on) as worker:
        async with contextlib.aclosing(worker.generate({})) as answers:
            await anext(answers)

        await asyncio.wait_for(closed.wait(), 10)
