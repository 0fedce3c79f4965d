"""Streams an answer to one client: all that has come since the last time is one write.

The surfaces give the stream and the writer that knows their protocol. No task group and no queue a stream: what
happens to every chunk of every client is here, and in the writers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from broker_controller.errors import ServiceError
from broker_controller.http.answer_writer import AnswerWriter, SideNotes
from broker_controller.http.call import Call, EndedByClient, Header
from broker_controller.http.origin import overhead_header, start_headers
from broker_controller.streams import GenerationStream, one_by_one
from broker_wire.messages import End, Piece

KEEPALIVE_INTERVAL = 5.0
"""Seconds without a chunk after which a client hears that its answer still lives. LLaVA's clients wait for 10."""
LAST_READ = 30.0
"""Seconds after a request's deadline in which its client has to have read what is there."""
MIN_REST = 0.002
"""Seconds; a shorter rest between two writes is not worth its timer."""

STREAM_HEADERS: list[Header] = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the answer otherwise
]


OnEnd = Callable[[], Awaitable[None]]


async def _nothing() -> None: ...


async def stream_answer(call: Call, stream: GenerationStream, writer: AnswerWriter, on_end: OnEnd = _nothing) -> None:
    """Write the whole answer. When the client leaves, or this is cancelled, the request is cancelled.

    `on_end` is waited for when the answer is complete, before the last of it is written.

    Raises: ServiceError, if the request failed before a status was sent.
    """
    call.tell_log(stream)
    call.forget_headers()
    call.client.read_until = stream.life.deadline + LAST_READ
    try:
        with EndedByClient(call.client):
            # With the first chunk the status is a real one, and the head needs no write of its own.
            waits = not await stream.wait(writer.hold)
            notes = SideNotes(stream, writer)
            await call.start(200, _head(call, stream, writer, waits=waits))
            if waits:
                await call.write(notes.now())
            try:
                await _write_chunks(call, stream, writer, notes, on_end)
            except ServiceError as error:
                data = notes.last() + writer.fail(error.about(stream.life.subject))
                await on_end()
                await call.write(data, last=True)
    finally:
        call.client.read_until = None
        stream.cancel()


def _head(call: Call, stream: GenerationStream, writer: AnswerWriter, *, waits: bool) -> list[Header]:
    head = [(b"content-type", writer.content_type), *STREAM_HEADERS, *start_headers(stream)]
    if not waits:
        head.append(overhead_header(stream.own_time(call.received_at, whole=False)))
    return head


async def _write_chunks(
    call: Call, stream: GenerationStream, writer: AnswerWriter, notes: SideNotes, on_end: OnEnd
) -> None:
    rate = writer.bytes_per_second
    while True:
        if not await stream.wait(KEEPALIVE_INTERVAL):
            await call.write(notes.now())
            continue
        items = stream.take()
        if type(items[-1]) is End:
            data = notes.last() + writer.encode(items)
            await on_end()
            await call.write(data, last=True)
            return
        data = writer.encode(items)
        await call.write(data)
        if rate is not None and (rest := len(data) / rate) > MIN_REST:
            await asyncio.sleep(rest)
        # An open stream spends its time in `wait`: it is not to keep its last chunk for so long.
        del items, data


async def whole_answer(
    call: Call,
    stream: GenerationStream,
    encode: Callable[[Sequence[str | Piece | End]], bytes],
    on_end: OnEnd = _nothing,
) -> None:
    """Answer with everything that a request gives in one body, which `encode` makes of it.

    Raises: ServiceError.
    """
    items: list[str | Piece | End] = []
    call.tell_log(stream)
    try:
        with EndedByClient(call.client):
            while not (items and type(items[-1]) is End):
                await stream.wait()
                items += one_by_one(stream.take())
            data = encode(items)
            await on_end()
            own_time = stream.own_time(call.received_at, whole=True)
            await call.respond(200, data, headers=[*start_headers(stream), overhead_header(own_time)])
    except ServiceError as error:
        error.about(stream.life.subject)
        raise
    finally:
        stream.cancel()
