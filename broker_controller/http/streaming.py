"""Streams an answer to one client: all that has come since the last time is one write.

The surfaces give the stream and the writer that knows their protocol. No task group and no queue a stream: what
happens to every chunk of every client is here, and in the writers.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import quote

from broker_controller.decisions import Stage
from broker_controller.errors import ServiceError
from broker_controller.forecast import Outlook
from broker_controller.http.call import Call, Header
from broker_controller.streams import GenerationStream
from broker_wire.messages import End, Piece

_log = logging.getLogger(__name__)

KEEPALIVE_INTERVAL = 5.0
"""Seconds without a chunk after which a client hears that its answer still lives. LLaVA's clients wait for 10."""
LAST_READ = 30.0
"""Seconds after a request's deadline in which its client has to have read what is there."""
MIN_REST = 0.002
"""Seconds; a shorter rest between two writes is not worth its timer."""

_STREAM_HEADERS: list[Header] = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the answer otherwise
]


class AnswerWriter(Protocol):
    """A protocol's way to write a streamed answer.

    Attributes:
        content_type: of the answer.
        hold: seconds for which the status waits for a worker to start, so that it is a real one.
        bytes_per_second: no faster, where each write repeats what came before; None where it does not.
    """

    content_type: bytes
    hold: float

    @property
    def bytes_per_second(self) -> int | None: ...

    def keepalive(self, outlook: Outlook | None) -> bytes:
        """Bytes that clients skip, for an answer that waits; `outlook` where it waits in a queue."""

    def moved(self, attempts: int) -> bytes:
        """Bytes that clients skip, before the end of an answer that took several attempts."""

    def encode(self, items: Sequence[str | Piece | End]) -> bytes:
        """What to send for these; the last of all is an `End`."""

    def fail(self, error: ServiceError) -> bytes:
        """The end of an answer that went wrong after its status was sent."""


async def stream_answer(call: Call, stream: GenerationStream, writer: AnswerWriter) -> None:
    """Write the whole answer. When the client leaves, or this is cancelled, the request is cancelled.

    Raises: ServiceError, if the request failed before a status was sent.
    """
    try:
        async with asyncio.timeout(max(0.0, stream.life.deadline - time.monotonic()) + LAST_READ):
            await _stream(call, stream, writer)
    except TimeoutError:
        _log.warning("connection given up, its client does not read request=%s", call.request_id)
    finally:
        stream.cancel()


async def _stream(call: Call, stream: GenerationStream, writer: AnswerWriter) -> None:
    with call.ended_by_client():
        waits = not await stream.wait_started(writer.hold)
        await call.start(200, [(b"content-type", writer.content_type), *_STREAM_HEADERS, *start_headers(stream)])
        if waits:
            await call.write(writer.keepalive(_outlook(stream)))
        try:
            await _write_chunks(call, stream, writer)
        except ServiceError as error:
            await call.write(_moved(stream, writer) + writer.fail(error), last=True)


async def _write_chunks(call: Call, stream: GenerationStream, writer: AnswerWriter) -> None:
    rate = writer.bytes_per_second
    while True:
        if not await stream.wait(KEEPALIVE_INTERVAL):
            await call.write(writer.keepalive(_outlook(stream)))
            continue
        items = stream.take()
        data = writer.encode(items)
        last = type(items[-1]) is End
        if last:
            data = _moved(stream, writer) + data
        await call.write(data, last=last)
        if last:
            return
        if rate is not None and (rest := len(data) / rate) > MIN_REST:
            await asyncio.sleep(rest)


def _outlook(stream: GenerationStream) -> Outlook | None:
    return stream.outlook if stream.life.stage is Stage.WAITING else None


def _moved(stream: GenerationStream, writer: AnswerWriter) -> bytes:
    moves = stream.life.moves
    return writer.moved(moves + 1) if moves else b""


async def whole_answer(call: Call, stream: GenerationStream) -> list[str | Piece | End]:
    """Everything that a request gives, for an answer that does not stream; [] when the client left before.

    Raises: ServiceError.
    """
    items: list[str | Piece | End] = []
    try:
        with call.ended_by_client():
            while not (items and type(items[-1]) is End):
                await stream.wait()
                items += stream.take()
            return items
    finally:
        stream.cancel()
    return []


def start_headers(stream: GenerationStream) -> list[Header]:
    """Who runs it, the number of attempts, and how long it waited for a slot; nothing before it has started."""
    start = stream.start
    if start is None:
        return []
    return [
        # A name is printable ASCII; what claims another one must not break the response.
        (b"x-worker", quote(start.worker, safe=":/?#[]@!$&'()*+,;=._~-").encode("ascii")),
        (b"x-attempts", b"%d" % start.attempts),
        (b"x-queue-time", b"%.3f" % start.queue_seconds),
    ]
