"""An HTTP server whose answers a test writes by hand, byte for byte; it records what it was asked."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec


class Asked(msgspec.Struct):
    """One request. `connection` counts the connections from 1."""

    method: str
    path: str
    fields: dict[str, str]
    body: bytes
    connection: int


Answer = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]
"""Writes the answer; what it raises closes the connection, as does closing it."""


class OddServer:
    """`asked`: all requests so far. `left`: connections that their client closed."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self._tls = tls
        self.asked: list[Asked] = []
        self.connections = 0
        self.left = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """On the same port as the last time."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and all connections at once."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            self._server = None

    async def end(self) -> None:
        """The same, and wait until all is over."""
        await self.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        self._writers.add(writer)
        if task := asyncio.current_task():
            self._tasks.add(task)
        try:
            while not writer.is_closing():
                asked = await _read(reader, connection)
                self.asked.append(asked)
                answering = asyncio.ensure_future(self.answer(asked, writer))
                while not answering.done():
                    await asyncio.wait([answering], timeout=0.01)
                    if reader.at_eof():
                        self.left += 1
                        answering.cancel()
                        return
                await answering
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def odd_server(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[OddServer]:
    server = OddServer(answer, tls)
    await server.start()
    try:
        yield server
    finally:
        await server.end()


async def _read(reader: asyncio.StreamReader, connection: int) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    method, path, _ = head[0].split()
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(fields.get("content-length", 0)))
    return Asked(method, path, fields, body, connection)


def whole(body: bytes, status: str = "200 OK", fields: str = "") -> bytes:
    """An answer with a length."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes) -> bytes:
    """One server-sent event, as a chunk."""
    return chunk(b"data: %b\n\n" % data)


async def never(*_: object) -> None:
    """An answer that does not come."""
    await asyncio.Event().wait()
