"""Records reach the log in order and until the broker has them, whatever becomes of a message."""

import asyncio
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from broker_controller.responses.log_writer import LogWriter
from broker_wire.amqp.channel import Outcome
from broker_wire.errors import NotConnectedError
from broker_wire.messages import Marker, Records
from tests.waiting import eventually


class LinksDouble:
    """Keeps what is sent; the test says what becomes of it."""

    def __init__(self) -> None:
        self.topology = SimpleNamespace(log_key="log")
        self.on_both_up: list[Callable[[], None]] = []
        self.up = True
        self.sent: list[tuple[list[str], Callable[[Outcome], None]]] = []

    def send_kept(self, _: str, message: Records, on_outcome: Callable[[Outcome], None]) -> None:
        if not self.up:
            raise NotConnectedError("no")
        names = [record.nonce for record in message.records if isinstance(record, Marker)]
        self.sent.append((names, on_outcome))

    def names(self) -> list[list[str]]:
        return [names for names, _ in self.sent]


def writer_of(links: LinksDouble, returned: list[int] | None = None, may_write: bool = True) -> LogWriter:
    on_returned: Any = (returned if returned is not None else []).append
    return LogWriter("c", cast("Any", links), may_write=lambda: may_write, on_returned=lambda: on_returned(1))


def add(writer: LogWriter, *names: str, size: int = 1, done: list[str] | None = None) -> None:
    for name in names:
        writer.add(Marker(name), size, None if done is None else partial(done.append, name))


async def test_what_comes_in_one_moment_is_one_message() -> None:
    links, done = LinksDouble(), list[str]()
    writer = writer_of(links)
    add(writer, "a", "b", "c", done=done)
    await eventually(lambda: links.names() == [["a", "b", "c"]])
    assert done == []
    links.sent[0][1](Outcome.CONFIRMED)
    assert done == ["a", "b", "c"]


async def test_large_records_are_messages_of_their_own() -> None:
    links = LinksDouble()
    add(writer_of(links), "a", "b", size=3 * 1024 * 1024)
    await eventually(lambda: links.names() == [["a"], ["b"]])


async def test_messages_that_are_lost_are_written_again_in_order_before_what_waits() -> None:
    links, done = LinksDouble(), list[str]()
    writer = writer_of(links)
    add(writer, "a", done=done)
    await eventually(lambda: links.names() == [["a"]])
    add(writer, "b", done=done)
    await eventually(lambda: links.names() == [["a"], ["b"]])
    links.up = False
    for _, on_outcome in links.sent:
        on_outcome(Outcome.LOST)
    add(writer, "c", done=done)
    await asyncio.sleep(0.05)
    assert len(links.sent) == 2
    links.up = True
    for tell in links.on_both_up:
        tell()
    await eventually(lambda: len(links.sent) == 3)
    assert links.names()[2] == ["a", "b", "c"]
    links.sent[2][1](Outcome.CONFIRMED)
    assert done == ["a", "b", "c"]


async def test_a_log_that_is_not_there_is_told_of_and_nothing_is_lost() -> None:
    links, returned = LinksDouble(), list[int]()
    writer = writer_of(links, returned)
    add(writer, "a")
    await eventually(lambda: len(links.sent) == 1)
    links.sent[0][1](Outcome.RETURNED)
    assert returned == [1]
    writer.schedule()
    await eventually(lambda: links.names() == [["a"], ["a"]])


async def test_nothing_is_written_before_there_is_a_log() -> None:
    links = LinksDouble()
    writer = writer_of(links, may_write=False)
    add(writer, *map(str, range(5_001)))
    await asyncio.sleep(0.05)
    assert links.sent == []
    assert writer.behind
