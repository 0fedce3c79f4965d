"""What the tests of the AMQP adapter share: a connection for the length of a test, and a TCP proxy that misbehaves."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

from broker_wire.amqp import BrokerAddresses, Connection, Session, TLSFiles, parse_broker_url
from broker_wire.errors import BrokerError

WAIT = 20.0
"""Seconds: a bound for what takes milliseconds on an idle machine."""


async def do_nothing(_: Session) -> None: ...


class Client:
    """A running connection, its latest session, and what it told us."""

    def __init__(self, addresses: BrokerAddresses, on_connected: Callable[[Session], Awaitable[object]]) -> None:
        self.sessions: list[Session] = []
        self.lost: list[BrokerError] = []
        self.blocked: list[bool] = []
        self._prepare = on_connected
        self.connection = Connection(
            addresses,
            name="test",
            on_connected=self._on_connected,
            on_lost=self.lost.append,
            on_blocked=self.blocked.append,
        )

    async def _on_connected(self, session: Session) -> None:
        self.sessions.append(session)
        await self._prepare(session)

    def has_lost(self, count: int) -> bool:
        """Whether so many connections went until now."""
        return len(self.lost) == count

    @property
    def session(self) -> Session:
        return self.sessions[-1]


@asynccontextmanager
async def running(
    url: str,
    on_connected: Callable[[Session], Awaitable[object]] = do_nothing,
    *,
    tls: TLSFiles | None = None,
    heartbeat: int = 10,
) -> AsyncIterator[Client]:
    """A client whose connection is kept up; it may not be connected yet."""
    client = Client(parse_broker_url(url, tls, heartbeat), on_connected)
    task = asyncio.create_task(client.connection.run())
    try:
        yield client
    finally:
        task.cancel()
        async with asyncio.timeout(WAIT):
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def connected(
    url: str, on_connected: Callable[[Session], Awaitable[object]] = do_nothing, **options: Any
) -> AsyncIterator[Client]:
    """A client that is connected."""
    async with running(url, on_connected, **options) as client:
        await client.connection.wait_connected(WAIT)
        yield client


class Proxy:
    """A TCP proxy in front of the broker that can cut, freeze, refuse, and put bytes of its own into the stream."""

    def __init__(self, broker_url: str, tls: ssl.SSLContext | None = None) -> None:
        self._broker = urlsplit(broker_url)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._half_open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.accepted = 0

    @property
    def url(self) -> str:
        scheme = "amqps" if self._tls else "amqp"
        userinfo = self._broker.netloc.rpartition("@")[0] or "guest:guest"
        return f"{scheme}://{userinfo}@localhost:{self._port}{self._broker.path}"

    async def listen(self) -> None:
        """Begin, or begin again on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Listen no more, and cut."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._clients:
            writer.transport.abort()

    def half_open(self) -> None:
        """Reset every connection, and let the broker go on as if its peer were only silent."""
        self._half_open |= self._clients
        self.cut()

    def freeze(self) -> None:
        """Take bytes from nobody; the connections stay."""
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    def say_to_client(self, data: bytes) -> None:
        """Bytes that the broker did not send. Nothing else must be on its way."""
        for writer in self._clients:
            writer.write(data)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(writer)
        self.accepted += 1
        upstream: asyncio.StreamWriter | None = None
        try:
            upstream_reader, upstream = await asyncio.open_connection(self._broker.hostname, self._broker.port or 5672)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump_up(reader, upstream, writer))
                pumps.create_task(self._pump(upstream_reader, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            # A cut or the end of the test: both sides go below.
            pass
        finally:
            self._clients.discard(writer)
            self._half_open.discard(writer)
            self._tasks.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()
                    with contextlib.suppress(OSError):
                        await end.wait_closed()

    async def _pump_up(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        try:
            await self._pump(reader, upstream)
        except OSError:
            if client not in self._half_open:
                raise
            # The broker's own end comes when it misses the heartbeats, or with the test's.
            await asyncio.Event().wait()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flows.wait()
            if writer in self._half_open:
                continue
            writer.write(data)
            try:
                await writer.drain()
            except OSError:
                # Cut while it was written: what comes after it goes nowhere.
                if writer not in self._half_open:
                    raise
        raise ConnectionResetError("one side hung up")
