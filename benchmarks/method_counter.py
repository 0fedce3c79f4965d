"""A TCP relay between one AMQP client and its broker that counts the methods which pass, by name and direction.

Used by slots.py, so that what a worker costs the broker is counted on the wire and not by the worker's own word.
"""

import asyncio
from collections import Counter

import msgspec

# AMQP 0-9-1, 2.3.5: type (1 byte), channel (2), size (4), payload, end (1); a client first sends a header of 8 bytes.
_FRAME_HEAD = 7
_FRAME_END = 1
_PROTOCOL_HEADER = 8
_METHOD_FRAME = 1

# (class, method), from the specification's XML; all others are counted by their numbers.
METHODS = {
    (60, 10): "basic.qos",
    (60, 20): "basic.consume",
    (60, 30): "basic.cancel",
    (60, 40): "basic.publish",
    (60, 60): "basic.deliver",
    (60, 70): "basic.get",
    (60, 71): "basic.get-ok",
    (60, 72): "basic.get-empty",
    (60, 80): "basic.ack",
    (60, 90): "basic.reject",
    (60, 120): "basic.nack",
}
FROM_CLIENT = "to the broker"
FROM_BROKER = "from the broker"


class MethodCount(msgspec.Struct, frozen=True):
    """One method in one direction; the broker's own acks are confirms."""

    direction: str
    method: str


class _FrameReader:
    """Finds the methods in one direction's bytes, however they are cut."""

    def __init__(self, direction: str, counts: Counter[MethodCount]) -> None:
        self._direction = direction
        self._counts = counts
        self._pending = b""
        self._skip = _PROTOCOL_HEADER if direction == FROM_CLIENT else 0

    def feed(self, data: bytes) -> None:
        data = self._pending + data
        position = 0
        if self._skip and len(data) >= self._skip:
            position, self._skip = self._skip, 0
        while not self._skip and len(data) - position >= _FRAME_HEAD:
            size = int.from_bytes(data[position + 3 : position + _FRAME_HEAD], "big")
            end = position + _FRAME_HEAD + size + _FRAME_END
            if end > len(data):
                break
            if data[position] == _METHOD_FRAME:
                self._count(data[position + _FRAME_HEAD : position + _FRAME_HEAD + 4])
            position = end
        self._pending = data[position:]

    def _count(self, ids: bytes) -> None:
        numbers = int.from_bytes(ids[:2], "big"), int.from_bytes(ids[2:], "big")
        self._counts[MethodCount(self._direction, METHODS.get(numbers, f"{numbers[0]}.{numbers[1]}"))] += 1


class CountingRelay:
    """An async context manager; clients connect to `port` on 127.0.0.1 as they would to the broker."""

    def __init__(self, host: str, port: int) -> None:
        self.counts: Counter[MethodCount] = Counter()
        self.port = 0
        self._broker = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def __aenter__(self) -> "CountingRelay":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._idle.wait()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(*self._broker)
        pair = {writer, broker_writer}
        self._writers |= pair
        self._idle.clear()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(reader, broker_writer, _FrameReader(FROM_CLIENT, self.counts)))
                both.create_task(_pass_on(broker_reader, writer, _FrameReader(FROM_BROKER, self.counts)))
        finally:
            self._writers -= pair
            if not self._writers:
                self._idle.set()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: _FrameReader) -> None:
    try:
        while data := await reader.read(65536):
            frames.feed(data)
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # one side was ended; the other one sees it as a close
    finally:
        writer.close()
