"""One HTTP request and the way to answer it, straight on ASGI.

A framework's request and streaming response cost more than all else that happens to a chunk; what is hot is written
on this instead. Used by `routes` and every surface; it knows no protocol above HTTP.
"""

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, cast

import msgspec
from starlette.types import Receive, Scope, Send

from broker_controller.errors import BadRequestError, RequestTooLargeError, Subject
from broker_controller.http.client import Client
from broker_controller.streams import GenerationStream

Header = tuple[bytes, bytes]

BODY_TIMEOUT = 60.0
"""Seconds in which a request's body has to be here."""

JSON = b"application/json"
OCTETS = b"application/octet-stream"


class ClientLeftError(Exception):
    """The client closed the connection before its request was complete."""


class Call:
    """One request.

    Attributes:
        client: who asks.
        received_at: when its head was here (seconds, monotonic).
        request_id: the client's `X-Request-Id`, or ours.
        subject: what an error of it is about, as far as the surface knows by now.
        started: a status was sent.
    """

    __slots__ = ("_send", "client", "receive", "received_at", "request_id", "scope", "started", "subject")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.client: Client = scope["state"]["client"]
        self.received_at: float = scope["state"]["received_at"]
        self.request_id: str = scope["state"]["request_id"]
        self.subject = Subject(self.request_id)
        self.started = False
        self._send = send

    @property
    def path(self) -> str:
        """The path asked for."""
        path: str = self.scope["path"]
        return path

    @property
    def query(self) -> str:
        """What follows the path's question mark."""
        raw: bytes = self.scope["query_string"]
        return raw.decode("latin-1")

    def path_parameter(self, name: str) -> str:
        """A part of the path that the route names."""
        value: str = self.scope["path_params"][name]
        return value

    def tell_log(self, stream: GenerationStream) -> None:
        """It is answered by this: the line of the access log has its facts."""
        self.scope["state"]["stream"] = stream

    def forget_headers(self) -> None:
        """Nobody asks for one any more: an open stream is not to hold them."""
        self.scope["headers"].clear()

    def header(self, name: bytes) -> bytes | None:
        """The first header of this lower-case name."""
        headers: Iterable[Header] = self.scope["headers"]
        for key, value in headers:
            if key == name:
                return value
        return None

    async def read_body(self, limit: int, count: Callable[[int], None]) -> bytes:
        """The whole body, of `limit` bytes at most. What is announced as too large is not read at all.

        `count` is told of every part's bytes, and may raise.
        Raises: RequestTooLargeError, BadRequestError, ClientLeftError.
        """
        self._check_announced_size(limit)
        if self.client.sent_all:
            return await self._receive_body(limit, count)
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                return await self._receive_body(limit, count)
        except TimeoutError as error:
            raise BadRequestError(f"the body of the request was not here after {BODY_TIMEOUT:.0f} s") from error

    async def respond(
        self, status: int, body: bytes, content_type: bytes = JSON, headers: Iterable[Header] = ()
    ) -> None:
        """Answer with a whole body."""
        length = (b"content-length", b"%d" % len(body))
        await self.start(status, [(b"content-type", content_type), length, *headers])
        await self.write(body, last=True)

    async def respond_json(self, answer: Any, headers: Iterable[Header] = ()) -> None:
        """Answer 200 with JSON."""
        await self.respond(200, msgspec.json.encode(answer), headers=headers)

    async def start(self, status: int, headers: list[Header]) -> None:
        """Send the status and headers of an answer that `write` goes on with."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a part of the answer; waits while the client reads too slowly."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    def _check_announced_size(self, limit: int) -> None:
        announced = self.header(b"content-length")
        # What is no number never comes so far: the server refuses it.
        if announced is not None and announced.isdigit() and int(announced) > limit:
            raise _too_large(int(announced), limit)

    async def _receive_body(self, limit: int, count: Callable[[int], None]) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(size, limit)
            count(len(part))
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)


class EndedByClient:
    """What runs inside ends, quietly, when the client leaves."""

    __slots__ = ("_client", "_left", "_task")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._left = False
        self._task = cast("asyncio.Task[object]", asyncio.current_task(client.loop))

    def __enter__(self) -> None:
        self._client.on_left = self._leave
        if self._client.left:
            self._leave()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        self._client.on_left = None
        if not self._left or kind is not asyncio.CancelledError:
            return False
        self._task.uncancel()
        return True

    def _leave(self) -> None:
        self._left = True
        self._task.cancel()


def _too_large(size: int, limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"the body has {size} bytes or more, {limit} can be taken")
