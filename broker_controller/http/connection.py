"""A client's connection, with bounds that uvicorn's own lacks: on the size of a request's head, on its time, on the
rest of a request that was answered before its end, and on the time in which an answer is read.

Used by `server` alone. Bodies have bounds of their own, in `call`.
"""

import asyncio
import time
from collections.abc import Set
from functools import lru_cache
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from broker_controller.http.client import Client
from broker_controller.http.flow import Flow, Pipeline, Signal
from broker_controller.http.transports import HeldHead, Unread
from broker_controller.http.unsent import UnsentWatch

MAX_HEAD_BYTES = 64 * 1024
"""Of a request line and its headers, where one read does not bring all; less those that come with the end of the
request before. As uvicorn's with h11."""
HEAD_TIMEOUT = 60.0
"""Seconds in which the head of a request has to be here, from the connection's or the request's first byte on."""
LINGER = 30.0
"""Seconds for which a client that still sends can read the answer that it got before its request's end. As nginx's."""
LOOK_INTERVAL = 5.0
"""Seconds between two looks at all connections: so much later than these bounds it may be. A timer for each connection
would cost each request two, and each open stream 1 KB."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 48\r\nconnection: close\r\n\r\n"
    b"The headers of a request may have 65536 bytes.\r\n"
)
_NO_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 30\r\nconnection: close\r\n\r\n"
    b"Invalid HTTP request received."
)


class RefusedHeadError(Exception):
    """A head that two programs may read in two ways, or a tunnel's. The parser makes it a 400."""


class BoundedConnection(HttpToolsProtocol):
    """Closes a connection whose request's head never ends, or whose request was answered before its end."""

    __slots__ = (
        "_answered",
        "_client",
        "_head_bytes",
        "_head_since",
        "_keeps_alive",
        "_linger_timer",
        "_refused",
        "_request_ended",
        "_unsent",
    )
    # Beside the dictionary of uvicorn's: with more names in it than 30 it would not be shared any more, and be 1.5 KB.

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pipeline = Pipeline()  # type: ignore[assignment]  # all that is used of a deque
        self._client = Client(self.loop)
        self._head_bytes = 0
        self._request_ended = False
        """Whether one ended in the read that is parsed: how much of the read is the next one's head is not known."""
        self._head_since: float | None = None
        """When the head began that is not complete yet."""
        self._answered: RequestResponseCycle | None = None
        """The request that was begun with last. `cycle` is the one that came last, and may wait behind it."""
        self._refused = False
        """Whether nothing is parsed any more."""
        self._unsent: UnsentWatch | None = None
        self._keeps_alive = True
        """Whether the request that comes in leaves the connection open, once it is here in whole."""
        self._linger_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there, and may not stay without a request."""
        super().connection_made(transport)
        self.server = _one_for_all(self.server)
        self.flow = Flow(transport)  # type: ignore[assignment]  # all that is used of one
        self._head_since = time.monotonic()
        self._unsent = UnsentWatch(transport, self._client, self._head_since)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._end_head()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        super().connection_lost(exc)
        self._client.leave()
        # No circle of references may keep it: the collector of such seldom runs.
        self._unsent = None
        if self.cycle is not None:
            self.cycle.transport = self.transport

    def look(self, now: float) -> None:
        """Whether any bound of time is passed."""
        if self._head_since is not None and now - self._head_since >= HEAD_TIMEOUT:
            self._give_up(now)
        if self._unsent is not None:
            self._unsent.look(now)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        if self._head_since is None:
            self._head_since = time.monotonic()

    def on_headers_complete(self) -> None:
        """What follows is the body: what is answered before its end is the connection's last answer."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise RefusedHeadError("this is no proxy")
            return  # `_feed` comes again with the same head
        self._end_head()
        self._refuse_two_readings()
        self._client.sent_all = False
        self.scope["state"]["client"] = self._client
        super().on_headers_complete()
        self.cycle.message_event = Signal()  # type: ignore[assignment]  # all that is used of one
        if self._answered is None or self._answered.response_complete:
            self._answered = self.cycle
        self._keeps_alive = self.cycle.keep_alive
        self.cycle.keep_alive = False
        self.cycle.transport = Unread(self)  # type: ignore[assignment]  # all that a cycle uses of one

    def on_message_complete(self) -> None:
        """The request is here in whole."""
        self._request_ended = True
        if self.parser.should_upgrade():
            return
        cycle = self.cycle
        self._client.sent_all = True
        if cycle.response_started:
            cycle.transport = self.transport
        else:
            cycle.keep_alive = self._keeps_alive
            cycle.transport = HeldHead(cycle, self.transport, self.loop)  # type: ignore[assignment]  # all that is used
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The next request that has come in, if there is one, is begun with."""
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        """Counted afterwards, when it is known whether the head has ended within it."""
        if self._refused or self._linger_timer is not None:
            return
        if self._head_since is None and self.cycle is not None and self.cycle.response_complete:
            # Of a next request. Line breaks before it are none of it for the parser, which says nothing of them.
            self._head_since = time.monotonic()
        self._unset_keepalive_if_required()
        self._request_ended = False
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self.logger.warning("no HTTP, connection closed reason=%s", error.__context__ or error)
            self._refuse(_NO_HTTP)
            return
        if self._head_since is not None and not self._request_ended:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_TOO_LARGE)

    def shutdown(self) -> None:
        """The server leaves."""
        self._keeps_alive = False
        super().shutdown()

    def linger(self) -> None:
        """Close, but read on for a while: closed at once, a client that still sends is reset and loses the answer."""
        self._linger_timer = self.loop.call_later(LINGER, self.transport.close)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def give_up_closed(self) -> None:
        """Whoever has had the time to read his last answer, and did not, is not waited for."""
        if self.transport.is_closing():
            self.transport.abort()

    def _refuse(self, answer: bytes) -> None:
        """Parse no more. Requests that came in whole before are answered first, and then no other bytes are sent."""
        self._refused = True
        self._end_head()
        last, answered = self.cycle, self._answered
        if answered is None or answered.response_complete:
            self._linger_with(answer)
        elif last is answered and last.more_body and not last.response_started:
            # It is in the body of the request that waits for it.
            last.disconnected = True
            last.message_event.set()
            self._linger_with(answer)
        else:
            last.keep_alive = False
            last.transport = Unread(self)  # type: ignore[assignment]  # all that a cycle uses of one

    def _linger_with(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.linger()

    def _feed(self, data: bytes) -> None:
        """Parse it. A wish to change to another protocol is passed over, as a server may.

        The parser takes what follows such a head for the other protocol's, a body included. Java's own HTTP client has
        this wish at first, with bodies, too.
        """
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
                self.parser.feed_data(self._head_without_upgrade())
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        version = self.parser.get_http_version().encode()
        return b"".join([self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n", *headers, b"\r\n"])

    def _refuse_two_readings(self) -> None:
        """What a proxy before us may have read otherwise. The parser itself refuses a length beside chunks.

        Raises: RefusedHeadError.
        """
        hosts = 0
        for name, value in self.headers:
            if name == b"transfer-encoding":
                # The parser takes any list that ends with it, and the body would be in the other encodings, too.
                if value.lower() != b"chunked" or self.parser.get_http_version() == "1.0":
                    raise RefusedHeadError("an encoding of the body that is not chunked alone, or chunks in HTTP/1.0")
            elif name == b"host":
                hosts += 1
        if hosts > 1:
            raise RefusedHeadError("more than one Host")

    def _give_up(self, now: float) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            # Half of a next request came early: the answer to the last one is not cut off for that.
            self._head_since = now

    def _end_head(self) -> None:
        self._head_bytes = 0
        self._head_since = None


async def look_after(connections: Set[Any]) -> None:
    """Look at the bounds of time of all these `BoundedConnection`s, until it is cancelled."""
    while True:
        await asyncio.sleep(LOOK_INTERVAL)
        now = time.monotonic()
        for connection in list(connections):
            connection.look(now)


@lru_cache(maxsize=64)
def _one_for_all(address: tuple[str, int | None] | None) -> tuple[str, int | None] | None:
    """Ours is the same at nearly all connections."""
    return address
