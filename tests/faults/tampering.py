"""A proxy before the controller that understands AMQP, and loses, repeats, reorders or garbles what workers reply.

Only whole deliveries of the exchange of replies are touched; all other frames pass as they came. A reply queue is
consumed without acks, so no delivery tag is missed.
"""

import asyncio
import random
import struct
from collections.abc import Iterator
from enum import Enum

from tests.integration.amqp_harness import Proxy

METHOD, HEADER, BODY = 1, 2, 3
BASIC_DELIVER = struct.pack(">HH", 60, 60)
_FRAME_HEAD = struct.Struct(">BHI")


class Harm(Enum):
    """What is done to a delivery."""

    LOSE = "lost"
    REPEAT = "duplicated"
    REORDER = "reordered"
    GARBLE = "corrupted"


class TamperingProxy(Proxy):
    """Harms one delivery of replies in `one_in`, at random from a seed. `done` counts what was done."""

    def __init__(self, broker_url: str, exchange: str, harms: list[Harm], *, seed: int, one_in: int) -> None:
        super().__init__(broker_url)
        self.done = dict.fromkeys(harms, 0)
        self._exchange = exchange.encode()
        self._harms = harms
        self._random = random.Random(seed)
        self._one_in = one_in

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer not in self._clients:
            await super()._pump(reader, writer)
            return
        tampered = Tampered(self)
        while data := await reader.read(65536):
            writer.write(b"".join(tampered.fed(data)))
            await writer.drain()
        raise ConnectionResetError("the broker hung up")

    def carries_replies(self, method: bytes) -> bool:
        """Whether this method frame's payload begins a delivery of a reply."""
        return method.startswith(BASIC_DELIVER) and self._exchange in method

    def harm(self, delivery: list[bytes]) -> tuple[Harm | None, bytes]:
        """What is to be sent for a delivery's frames: nothing, once or twice, whole or garbled."""
        whole = b"".join(delivery)
        if self._random.randrange(self._one_in):
            return None, whole
        harm = self._random.choice(self._harms)
        self.done[harm] += 1
        match harm:
            case Harm.LOSE:
                return harm, b""
            case Harm.REPEAT:
                return harm, whole + whole
            case Harm.REORDER:
                return harm, whole
            case Harm.GARBLE:
                return harm, b"".join(self._garbled(frame) for frame in delivery)

    def _garbled(self, frame: bytes) -> bytes:
        kind, channel, size = _FRAME_HEAD.unpack_from(frame)
        if kind != BODY:
            return frame
        return _FRAME_HEAD.pack(kind, channel, size) + self._random.randbytes(size) + frame[-1:]


class Tampered:
    """One connection's bytes from the broker: frames in, frames out."""

    def __init__(self, proxy: TamperingProxy) -> None:
        self._proxy = proxy
        self._data = b""
        self._deliveries: dict[int, list[bytes]] = {}
        """What has come of a delivery of replies, by its channel."""
        self._missing: dict[int, int] = {}
        """Bytes of its body that have not come; -1 before its header."""
        self._late = b""
        """A delivery that has to wait for the next one."""

    def fed(self, data: bytes) -> Iterator[bytes]:
        """What is to be passed on."""
        self._data += data
        while len(self._data) >= _FRAME_HEAD.size:
            end = _FRAME_HEAD.size + _FRAME_HEAD.unpack_from(self._data)[2] + 1
            if len(self._data) < end:
                return
            frame, self._data = self._data[:end], self._data[end:]
            yield from self._passed(frame)

    def _passed(self, frame: bytes) -> Iterator[bytes]:
        kind, channel, _ = _FRAME_HEAD.unpack_from(frame)
        payload = frame[_FRAME_HEAD.size : -1]
        if kind == METHOD and self._proxy.carries_replies(payload):
            self._deliveries[channel], self._missing[channel] = [frame], -1
            return
        if channel not in self._deliveries:
            yield frame
            return
        self._deliveries[channel].append(frame)
        if kind == HEADER:
            self._missing[channel] = int.from_bytes(payload[4:12], "big")
        else:
            self._missing[channel] -= len(payload)
        if not self._missing[channel]:
            yield from self._complete(self._deliveries.pop(channel))

    def _complete(self, delivery: list[bytes]) -> Iterator[bytes]:
        harm, sent = self._proxy.harm(delivery)
        if harm is Harm.REORDER and not self._late:
            self._late = sent
            return
        yield sent
        yield self._late
        self._late = b""
