"""One HTTP/1.1 connection that asks for one streamed answer after the other and only notes bytes and times.

Used by load.py. It does as little as possible for each segment that arrives, so that it is not what limits the
figures: no parsing beyond the end of the response; the text is checked after the round (answers.py).
"""

import asyncio
import re
from time import perf_counter
from typing import cast

import msgspec

_LAST_CHUNK = b"\r\n0\r\n\r\n"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


class Exchange(msgspec.Struct):
    """One request and what came back; times in seconds of `perf_counter`."""

    sent: float
    first_content: float | None = None
    ended: float | None = None
    segments: list[bytes] = []
    arrivals: list[float] = []
    closed_early: bool = False


class StreamConnection(asyncio.Protocol):
    """Sends the same request `count` times, each as soon as the answer before it is whole.

    `token`: what is in every part of an answer that carries text.
    """

    def __init__(self, token: re.Pattern[bytes]) -> None:
        self._token = token
        loop = asyncio.get_running_loop()
        self.exchanges: list[Exchange] = []
        self.finished: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.WriteTransport | None = None
        self._request = b""
        self._left = 0
        self._current: Exchange | None = None
        self._tail = b""
        self._body_end: int | None = None  # for a response with a Content-Length: its whole size in bytes

    def start(self, request: bytes, count: int) -> None:
        self._request = request
        self._left = count
        self._send_next()

    async def aclose(self) -> None:
        self._current = None  # an answer that is still awaited has run out of time, it was not cut off
        if self._transport is not None:
            self._transport.close()
            await self._closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's class is not derived from it

    def data_received(self, data: bytes) -> None:
        current = self._current
        if current is None:
            return
        now = perf_counter()
        current.segments.append(data)
        current.arrivals.append(now)
        if current.first_content is None:
            received = data if len(current.segments) == 1 else b"".join(current.segments)
            if self._token.search(received):
                current.first_content = now
            if self._body_end is None:
                self._note_length(received)
        self._tail = data[-7:] if len(data) >= 7 else (self._tail + data)[-7:]
        if self._tail == _LAST_CHUNK or self._body_end is not None:
            self._end_if_whole(current, now)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._current is not None:
            self._current.closed_early = True
            self._current = None
        if not self.finished.done():
            self.finished.set_result(None)
        self._closed.set_result(None)

    def _send_next(self) -> None:
        assert self._transport is not None
        self._left -= 1
        self._tail = b""
        self._body_end = None
        self._current = Exchange(sent=perf_counter())
        self.exchanges.append(self._current)
        self._transport.write(self._request)

    def _note_length(self, received: bytes) -> None:
        """A response with a Content-Length, an error's or one that is no stream, has no last chunk to show its end."""
        head, found, _ = received.partition(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head) if found else None
        self._body_end = len(head) + 4 + int(length[1]) if length else None

    def _end_if_whole(self, current: Exchange, now: float) -> None:
        if self._body_end is not None and sum(map(len, current.segments)) < self._body_end:
            return
        current.ended = now
        self._current = None
        if self._left > 0:
            self._send_next()
        elif not self.finished.done():
            self.finished.set_result(None)
