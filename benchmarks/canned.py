"""A server that answers every request with the same prepared bytes: what the load generator itself can do.

Used by the suite, in the load generator's own process, so the figure is the least that it can do.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from benchmarks.answers import echo_text

CLOSE_TIMEOUT = 10.0  # seconds


def chunked_answer(prompt: str, tokens: int) -> bytes:
    """A whole chat completion stream of the echo engine, one HTTP chunk for each event."""
    words = echo_text(prompt, tokens).split()
    deltas = [{"content": word if index == 0 else f" {word}"} for index, word in enumerate(words)]
    events = [_event(delta, None) for delta in deltas] + [_event({}, "length"), b"data: [DONE]\n\n"]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    chunk = {
        "id": "chatcmpl-canned",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "echo",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class _CannedServer(asyncio.Protocol):
    """Takes each segment for one whole request, which the load generator's are."""

    def __init__(self, answer: bytes, open_ones: set[asyncio.Future[None]]) -> None:
        self._answer = answer
        self._open_ones = open_ones
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's class is not derived from it
        self._open_ones.add(self._closed)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._open_ones.remove(self._closed)
        self._closed.set_result(None)

    def data_received(self, _data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(self._answer)


@asynccontextmanager
async def canned_server(answer: bytes) -> AsyncIterator[str]:
    """Serves on a free port of this machine; gives the URL."""
    loop = asyncio.get_running_loop()
    open_ones: set[asyncio.Future[None]] = set()
    server = await loop.create_server(lambda: _CannedServer(answer, open_ones), "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        server.close()
        if open_ones:  # the client has closed them; this side sees it a turn later
            await asyncio.wait(open_ones, timeout=CLOSE_TIMEOUT)
