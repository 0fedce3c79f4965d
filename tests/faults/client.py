"""A client of the fault tests: it asks once, and writes down every chunk of the answer with its time.

h11 over asyncio, so that nothing buffers and a client can leave, half-close or stop reading. Knows no fault.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import h11

from tests.faults.history import SLACK, Exchange

_READ_BYTES = 65536


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
        worker: str = "",
    ) -> None:
        self.exchange = exchange
        self.url = url
        self._address = urlsplit(url)
        self._protocol = protocol
        self._path = f"/worker/{worker}{protocol.path}" if worker else protocol.path
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
        request = h11.Request(method="POST", target=self._path, headers=headers)
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
