"""The clients of the fault tests: each streams one answer and writes down every chunk with its time.

h11 over asyncio, so that nothing buffers and a client can leave, half-close or stop reading. Knows no fault.
"""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from enum import Enum
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import h11

from tests.faults.history import SLACK, Exchange
from tests.waiting import eventually

_READ_BYTES = 65536
ARRIVING = "arriving"
"""The group of those that keep coming."""
DEADLINE = 90.0
"""Seconds in which a request of these tests ends, unless a test says otherwise."""


class Protocol(Enum):
    """By which surface a client asks; the value is the path, and whether the answer streams."""

    OPENAI = ("/v1/chat/completions", True)
    COMPLETION = ("/v1/completions", True)
    WHOLE = ("/v1/chat/completions", False)
    LLAVA = ("/worker_generate_stream", True)
    LLAVA_WHOLE = ("/worker_generate", False)

    @property
    def path(self) -> str:
        """Where it asks."""
        return self.value[0]

    @property
    def streams(self) -> bool:
        """Whether the answer comes in chunks."""
        return self.value[1]

    @property
    def is_llavas(self) -> bool:
        """Whether bodies and answers are in LLaVA's form."""
        return self in (Protocol.LLAVA, Protocol.LLAVA_WHOLE)


class Client:
    """One request and its answer; `exchange` is filled while it runs."""

    def __init__(
        self,
        url: str,
        exchange: Exchange,
        protocol: Protocol,
        model: str,
        headers: dict[str, str],
        receive_buffer: int | None = None,
    ) -> None:
        self.exchange = exchange
        self.url = url
        self._address = urlsplit(url)
        self._protocol = protocol
        self._model = model
        self._headers = headers
        self._receive_buffer = receive_buffer
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> Exchange:
        """Ask, and read until the end or a little after the deadline."""
        exchange = self.exchange
        try:
            async with asyncio.timeout(exchange.deadline + SLACK - time.monotonic()):
                await self._talk()
            exchange.ended_at = time.monotonic()
        except TimeoutError:
            exchange.broken = "no end within its deadline"
        except (OSError, h11.RemoteProtocolError) as error:
            exchange.broken = f"{type(error).__name__}: {error}"
            exchange.ended_at = time.monotonic()
        finally:
            self._disconnect()
        return exchange

    def leave(self) -> None:
        """Close the connection, as a client that has seen enough."""
        self.exchange.left = True
        self._disconnect()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        assert self._writer is not None
        self._writer.write_eof()

    def stop_reading(self) -> None:
        """Read nothing until `go_on_reading`."""
        assert self._writer is not None
        self._transport.pause_reading()

    def go_on_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    @property
    def _transport(self) -> asyncio.Transport:
        assert self._writer is not None
        transport = self._writer.transport
        assert isinstance(transport, asyncio.Transport)
        return transport

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._transport.abort()

    async def _talk(self) -> None:
        reader, self._writer = await self._connect()
        http = h11.Connection(h11.CLIENT)
        body = json.dumps(self._body()).encode()
        headers = [
            ("host", self._address.netloc),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            ("x-request-id", self.exchange.id),
            *self._headers.items(),
        ]
        request = h11.Request(method="POST", target=self._protocol.path, headers=headers)
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            self._writer.write(http.send(event) or b"")
        await self._writer.drain()
        parse = self._parse_object if self._protocol.is_llavas else self._parse_event
        end = b"\0" if self._protocol.is_llavas else b"\n\n"
        rest = b""
        async for data in self._data(http, reader):
            *parts, rest = (rest + data).split(end)
            for part in parts:
                if part:
                    parse(part, time.monotonic())
                else:
                    self.exchange.keepalives.append(time.monotonic())
        if rest:
            self._parse_whole(rest)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._receive_buffer is None:
            return await asyncio.open_connection(self._address.hostname, self._address.port)
        # The kernel's own buffer grows to megabytes, unless its size is set before the connection is there.
        receiver = socket.socket()
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        receiver.setblocking(False)
        await asyncio.get_running_loop().sock_connect(receiver, ("127.0.0.1", self._address.port))
        return await asyncio.open_connection(sock=receiver)

    async def _data(self, http: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                self.exchange.status = event.status_code
                self.exchange.headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return

    def _body(self) -> dict[str, Any]:
        exchange = self.exchange
        body: dict[str, Any] = {"model": self._model, "prompt": exchange.prompt}
        if self._protocol.is_llavas:
            return body | {"max_new_tokens": exchange.tokens, "echo": False}
        if self._protocol is not Protocol.COMPLETION:
            body = {"model": self._model, "messages": [{"role": "user", "content": exchange.prompt}]}
        return body | {"max_tokens": exchange.tokens, "stream": self._protocol.streams}

    def _parse_event(self, event: bytes, now: float) -> None:
        exchange = self.exchange
        for line in event.split(b"\n"):
            if line.startswith(b":"):
                exchange.comments.append(line[1:].strip().decode())
                exchange.keepalives.append(now)
            elif line == b"data: [DONE]":
                exchange.finished = True
            elif line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    exchange.errors.append(chunk["error"])
                for choice in chunk.get("choices", ()):
                    if text := choice.get("text") or choice.get("delta", {}).get("content"):
                        exchange.chunks.append((now, text))

    def _parse_object(self, data: bytes, now: float) -> None:
        exchange = self.exchange
        answer = json.loads(data)
        if answer["error_code"]:
            exchange.errors.append({"code": answer["error_code"], "message": answer["text"]})
            return
        # Each object has the whole text so far: what does not begin with what came before shows as a difference.
        before, whole = exchange.text, answer["text"]
        if whole != before:
            exchange.chunks.append((now, whole.removeprefix(before)))
        exchange.finished = len(whole) >= len(before) and bool(answer.get("finish_reason"))

    def _parse_whole(self, body: bytes) -> None:
        """The JSON of an answer that is no stream."""
        answer = json.loads(body)
        if "error_code" in answer:
            self._parse_object(body, time.monotonic())
        if "error" in answer:
            self.exchange.errors.append(answer["error"])
        for choice in answer.get("choices", ()):
            self.exchange.chunks.append((time.monotonic(), choice["message"]["content"]))
            self.exchange.finished = choice["finish_reason"] is not None


class Load:
    """All clients of one test: it owns their tasks, and no client outlives it."""

    def __init__(self) -> None:
        self._tasks = asyncio.TaskGroup()
        self._numbers = itertools.count(1)
        self.clients: list[Client] = []
        self._running: list[asyncio.Task[Exchange]] = []
        self._arrivals: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.end_arrivals()
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(kind, error, tb)

    @property
    def exchanges(self) -> list[Exchange]:
        """In the order in which they were sent."""
        return [client.exchange for client in self.clients]

    def send(
        self,
        url: str,
        group: str,
        *,
        steps: str = "",
        tokens: int = 60,
        within: float = DEADLINE,
        protocol: Protocol = Protocol.OPENAI,
        model: str = "m",
        headers: dict[str, str] | None = None,
        receive_buffer: int | None = None,
    ) -> Client:
        """Ask a controller. `steps` are the words that steer the engine; no two prompts are the same.

        `receive_buffer`: bytes of the connection's buffer in the kernel, for a client that is to read slowly.
        """
        number = next(self._numbers)
        now = time.monotonic()
        exchange = Exchange(
            id=f"r{number}",
            group=group,
            prompt=f"r{number} {steps} quick brown fox jumps".replace("  ", " "),
            tokens=tokens,
            sent_at=now,
            deadline=now + within,
        )
        client = Client(url, exchange, protocol, model, headers or {}, receive_buffer)
        self.clients.append(client)
        self._running.append(self._tasks.create_task(client.run(), name=exchange.id))
        return client

    def begin_arrivals(self, url: str, interval: float, tokens: int) -> None:
        """From now on a new client comes every `interval` seconds, by every protocol in turn."""
        self._arrivals = self._tasks.create_task(self._arrive(url, interval, tokens), name="arrivals")

    async def end_arrivals(self) -> None:
        """Nobody else comes."""
        arrivals, self._arrivals = self._arrivals, None
        if arrivals is not None:
            arrivals.cancel()
            await asyncio.wait([arrivals])

    async def _arrive(self, url: str, interval: float, tokens: int) -> None:
        for protocol in itertools.cycle(Protocol):
            self.send(url, ARRIVING, tokens=tokens, protocol=protocol)
            await asyncio.sleep(interval)

    async def until_each(self, group: str, condition: Callable[[Exchange], object], within: float = 30.0) -> None:
        """Wait until it is true of every exchange of the group."""
        await eventually(lambda: all(condition(each) for each in self.exchanges if each.group == group), within)

    async def until_all_ended(self) -> list[Exchange]:
        """Every exchange, each ended, or given up a little after its deadline.

        Clients that keep coming do so until all others have ended.
        """
        if self._arrivals is not None:
            arriving = {each.exchange.id for each in self.clients if each.exchange.group == ARRIVING}
            await asyncio.wait([task for task in self._running if task.get_name() not in arriving])
            await self.end_arrivals()
        return list(await asyncio.gather(*self._running))
