"""What becomes of a message decides what is sent again: confirmed, returned, nacked, or lost with its connection."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from broker_wire import codec
from broker_wire.amqp import Outcome
from broker_wire.messages import Ask, Frame, GivenBack, Gone, Progress, Started, Texts
from workers_shim.controller_links import ControllerLinks
from workers_shim.outbox import Outbox
from workers_shim.outgoing import Outgoing


class Wire:
    """The channel's place: keeps what is published until a test says what came of it."""

    def __init__(self) -> None:
        self.messages: list[tuple[list[Frame], Callable[[Outcome], None]]] = []

    def publish(
        self,
        _exchange: str,
        _key: str,
        body: bytes,
        *,
        on_outcome: Callable[[Outcome], None],
        **_: object,
    ) -> None:
        self.messages.append((codec.decode_reply(body, codec.CONTENT_TYPE).frames, on_outcome))

    async def next(self) -> tuple[list[Frame], Callable[[Outcome], None]]:
        for _ in range(10):
            if self.messages:
                return self.messages.pop(0)
            await asyncio.sleep(0)
        pytest.fail("nothing is published")


class Listener:
    """Custody's place. `current`: every note that was lost still says what is so."""

    def __init__(self) -> None:
        self.current = True
        self.settled: list[Outgoing] = []

    def is_current(self, _key: object, _note: object) -> bool:
        return self.current

    def on_settled(self, outgoing: Outgoing) -> None:
        self.settled.append(outgoing)

    def on_start_confirmed(self, _key: object, _note: object) -> None: ...

    def on_held(self, outgoing: Outgoing) -> None: ...

    def on_released(self, outgoing: Outgoing) -> None: ...


class Desk:
    """An outbox, and what it stands between."""

    def __init__(self) -> None:
        self.wire, self.listener = Wire(), Listener()
        self.links = ControllerLinks(lambda: 0.0, grace=30.0)
        listener: Any = self.listener
        wire: Any = self.wire
        self.outbox = Outbox("replies", "i", asyncio.get_running_loop(), self.links, listener)
        self.outbox.attach(wire)

    def stream(self, number: int = 1) -> Outgoing:
        outgoing = Outgoing("c", number, 1, 0, ready=self.outbox.ready, released=self.outbox.released)
        self.links.add(outgoing)
        return outgoing


NOTES = [Started(1, 1, "w", "i"), Ask(1, 1, "w", "i"), Gone(1, 1), GivenBack(1, 1)]


@pytest.mark.parametrize("note", NOTES, ids=lambda note: type(note).__name__)
async def test_a_note_that_was_lost_is_said_again(note: Started | Ask | Gone | GivenBack) -> None:
    desk = Desk()
    desk.outbox.note("c", note)
    _, on_outcome = await desk.wire.next()
    on_outcome(Outcome.LOST)
    assert (await desk.wire.next())[0] == [note]


@pytest.mark.parametrize("note", NOTES[:2], ids=lambda note: type(note).__name__)
async def test_a_note_that_was_lost_and_is_not_so_any_more_is_not_said_again(note: Started | Ask) -> None:
    desk = Desk()
    desk.listener.current = False
    desk.outbox.note("c", note)
    _, on_outcome = await desk.wire.next()
    on_outcome(Outcome.LOST)
    assert desk.outbox.quiet


async def test_what_the_broker_could_not_take_just_now_is_tried_again_at_the_next_sweep() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.offer("a")
    frames, on_outcome = await desk.wire.next()
    on_outcome(Outcome.NACKED)
    assert not desk.outbox.quiet
    desk.outbox.sweep()
    again, on_outcome = await desk.wire.next()
    assert again == frames == [Texts(1, 1, 0, ["a"])]
    on_outcome(Outcome.CONFIRMED)
    assert stream.retention.open == 0


async def test_a_confirm_is_a_sign_of_life_of_a_controller_that_was_taken_for_gone() -> None:
    desk = Desk()
    returned, confirmed = desk.stream(1), desk.stream(2)
    returned.offer("a")
    _, on_returned = await desk.wire.next()
    confirmed.offer("b")
    _, on_confirmed = await desk.wire.next()
    on_returned(Outcome.RETURNED)
    assert not confirmed.wait_writable(0.0)
    on_confirmed(Outcome.CONFIRMED)
    assert confirmed.wait_writable(0.0)
    assert (await desk.wire.next())[0] == [Texts(1, 1, 0, ["a"])]


async def test_a_sign_of_work_that_was_lost_is_not_repeated() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.progress()
    frames, on_outcome = await desk.wire.next()
    assert frames == [Progress(1, 1)]
    on_outcome(Outcome.LOST)
    assert desk.outbox.quiet
