"""A small HTTP/1.1 client for one server: connections that are kept, bodies that are read as they come, a cancel that
closes the connection at once.

Used by the engines that call a server. It takes no proxy and follows no redirect: the address that was said is the one
that is called. What the bytes mean is `http_parser`'s.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator
from urllib.parse import urlsplit

from msgspec import Struct

from workers_shim.engines.http_parser import Head, MalformedError, ResponseParser

CONNECT_TIMEOUT = 5.0
"""Seconds."""
IDLE_TIME = 4.0
"""Seconds for which a connection is kept that nobody uses: uvicorn and llama.cpp close theirs after 5."""
READ_SIZE = 64 * 1024
_PORTS = {"http": 80, "https": 443}


class HttpError(Exception):
    """The server did not answer as HTTP has it. The text is a sentence."""


class UnreachableError(HttpError):
    """No connection: the server does not know of the request."""


class BrokenOffError(HttpError):
    """The connection ended before the answer did, or what came is no HTTP."""


class Address(Struct, frozen=True):
    """Where a server is. `path` goes before that of every request, and does not end with a slash."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """As the field `Host` has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """For people."""
        return f"{self.scheme}://{self.netloc}{self.path}"


def parse_url(url: str) -> Address:
    """Raises: ValueError, with a sentence, which does not repeat a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"the URL of the server cannot be read: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL of the server must not have a user or password: everybody on the machine sees it")
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"the URL of the server has to look like http://localhost:8000/v1, not {url!r}")
    if any(not 0x20 < ord(character) < 0x7F for character in parts.path + parts.hostname):
        raise ValueError(f"the URL of the server has to be ASCII without spaces, not {url!r}")
    return Address(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], parts.path.rstrip("/"))


class _Connection:
    """`received`: of the present answer something has come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = ResponseParser()
        self._early: list[bytes] = []
        self.received = False
        self.idle_since = 0.0

    async def is_usable(self) -> bool:
        """As far as can be known without asking. What has come while nothing was asked would be taken for an answer."""
        if time.monotonic() - self.idle_since >= IDLE_TIME or self._writer.is_closing():
            return False
        try:
            async with asyncio.timeout(0):
                await self._reader.read(1)
        except TimeoutError:
            return True
        except OSError:
            return False
        return False

    @property
    def parser(self) -> ResponseParser:
        """Of the present answer."""
        return self._parser

    async def send(self, request: bytes) -> Head:
        """Returns the head of the answer. Raises: BrokenOffError."""
        self._parser = ResponseParser()
        self._early = []
        self.received = False
        try:
            self._writer.write(request)
            await self._writer.drain()
        except OSError as error:
            raise BrokenOffError(f"the connection broke off: {error}") from error
        while self._parser.head is None:
            self._early += await self.read()
        return self._parser.head

    async def read(self) -> list[bytes]:
        """What has come of the body; empty where nothing of it was in what came. Raises: BrokenOffError."""
        try:
            data = await self._reader.read(READ_SIZE)
        except OSError as error:
            raise BrokenOffError(f"the connection broke off: {error}") from error
        try:
            if data:
                self.received = True
                return self._parser.feed(data)
            self._parser.feed_end()
        except MalformedError as error:
            raise BrokenOffError(str(error)) from error
        return []

    def take_early(self) -> list[bytes]:
        """What came of the body together with the head."""
        early, self._early = self._early, []
        return early

    def close(self) -> None:
        """At once: what is still to be sent is not."""
        self._writer.transport.abort()


class Response:
    """An answer whose head is there."""

    def __init__(self, head: Head, connection: _Connection) -> None:
        self.status = head.status
        self.content_type = head.fields.get("content-type", "").partition(";")[0].strip().lower()
        self.fields = head.fields
        self._connection = connection

    async def read_some(self) -> bytes:
        """The next bytes of the body, as soon as there are any; b"" at its end. Raises: BrokenOffError."""
        piece = b"".join(self._connection.take_early())
        while not piece and not self._connection.parser.complete:
            piece = b"".join(await self._connection.read())
        return piece

    async def read(self, limit: int) -> bytes:
        """All of the body. Raises: BrokenOffError; HttpError, if it has more than `limit` bytes."""
        body = bytearray()
        while piece := await self.read_some():
            body += piece
            if len(body) > limit:
                raise HttpError(f"the answer has more than {limit} bytes")
        return bytes(body)


class HttpClient:
    """Calls one server, from one event loop."""

    def __init__(self, address: Address, *, secret: str | None = None, keep: int = 1) -> None:
        """`secret` is sent as a bearer token. `keep`: connections that are kept for the next requests, at most."""
        self.address = address
        self.loop = asyncio.get_running_loop()
        self._keep = keep
        self._idle: list[_Connection] = []
        self._end_of_loop: AsyncGenerator[None, None] | None = None
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        token = f"Authorization: Bearer {secret}\r\n" if secret else ""
        self._fields = f"Host: {address.netloc}\r\nUser-Agent: workers-shim\r\nAccept-Encoding: identity\r\n{token}"

    @contextlib.asynccontextmanager
    async def request(self, method: str, path: str, body: bytes | None = None) -> AsyncIterator[Response]:
        """One request; leaving the block before the end of the answer closes the connection.

        Args:
            path: from the server's root.
            body: JSON.

        Raises: UnreachableError, BrokenOffError.
        """
        if self._end_of_loop is None:
            self._end_of_loop = self._until_loop_ends()
            await anext(self._end_of_loop)
        connection, head = await self._send(self._request(method, path, body))
        try:
            yield Response(head, connection)
        finally:
            self._give_back(connection)

    async def ask(
        self, method: str, path: str, body: bytes | None = None, *, timeout: float, limit: int
    ) -> tuple[int, bytes]:
        """A question that is answered at once: status and body.

        Raises: TimeoutError, HttpError.
        """
        async with asyncio.timeout(timeout), self.request(method, path, body) as response:
            return response.status, await response.read(limit)

    def close(self) -> None:
        """Close what is kept, and keep nothing any more."""
        self._keep = 0
        while self._idle:
            self._idle.pop().close()

    async def _until_loop_ends(self) -> AsyncGenerator[None, None]:
        """Whoever ends a loop closes its open generators first, and so no connection outlives it."""
        try:
            yield
        finally:
            self.close()

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        about = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{method} {path} HTTP/1.1\r\n{self._fields}{about}\r\n".encode() + (body or b"")

    async def _send(self, request: bytes) -> tuple[_Connection, Head]:
        kept = await self._take_kept()
        broken: BrokenOffError | None = None
        if kept is not None:
            try:
                return kept, await _sent(kept, request)
            except BrokenOffError as error:
                if kept.received:
                    raise
                # The server closed it while the request was on its way; so it has the others.
                broken = error
                self._drop_kept()
        try:
            fresh = await self._connect()
        except UnreachableError:
            # It died meanwhile: perhaps of this very request, so it is not for us to say that it never heard of it.
            if broken is not None:
                raise broken from None
            raise
        return fresh, await _sent(fresh, request)

    async def _connect(self) -> _Connection:
        host, port = self.address.host, self.address.port
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return _Connection(*await asyncio.open_connection(host, port, ssl=self._tls, limit=READ_SIZE))
        except TimeoutError:
            reason = f"no connection within {CONNECT_TIMEOUT:g} s"
        except OSError as error:
            reason = error.strerror or str(error)
        raise UnreachableError(f"{self.address.url} cannot be reached: {reason}")

    async def _take_kept(self) -> _Connection | None:
        # The one that was used last is the one that the server closes last.
        while self._idle:
            connection = self._idle.pop()
            if await connection.is_usable():
                return connection
            connection.close()
        return None

    def _drop_kept(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _give_back(self, connection: _Connection) -> None:
        if connection.parser.reusable and len(self._idle) < self._keep:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()


async def _sent(connection: _Connection, request: bytes) -> Head:
    """Raises: BrokenOffError, or whatever interrupts it; the connection is closed then."""
    try:
        return await connection.send(request)
    except BaseException:
        connection.close()
        raise
