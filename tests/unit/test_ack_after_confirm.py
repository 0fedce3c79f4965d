"""A request is acked when the message with the end of its answer is confirmed, and not before: else a kill loses it."""

import asyncio
import time
from typing import Any

import pytest

from broker_wire import codec
from broker_wire.amqp import Delivery, Outcome
from broker_wire.garbage import GarbageBin
from broker_wire.messages import End, Generate, Operation, Started, Texts
from tests.unit.test_outbox_outcomes import Wire
from workers_shim.controller_links import ControllerLinks
from workers_shim.custody import Custody
from workers_shim.outbox import Outbox
from workers_shim.slot_decisions import Incarnation, Lease, Role, Source
from workers_shim.stream import Assignment, OutgoingStream
from workers_shim.tombstones import Tombstones


class Desk:
    """Intake's place: counts what is settled."""

    def __init__(self) -> None:
        self.acked: list[Lease[Delivery]] = []
        self.freed: list[Lease[Delivery]] = []

    def ack(self, lease: Lease[Delivery]) -> None:
        self.acked.append(lease)

    def free(self, lease: Lease[Delivery]) -> None:
        self.freed.append(lease)

    def give_back(self, lease: Lease[Delivery]) -> None:
        pytest.fail("nothing is to be given back")


class Engine:
    """The executor's place: a test says what the engine says."""

    stream: OutgoingStream

    def start(self, _assignment: Assignment, stream: OutgoingStream) -> None:
        self.stream = stream


class WorkerSide:
    """A real custody and outbox, between an engine, a wire and a desk that are none."""

    def __init__(self) -> None:
        self.wire, self.desk, self.engine = Wire(), Desk(), Engine()
        links = ControllerLinks(time.monotonic, grace=30.0)
        self.custody = Custody(
            "w",
            "i",
            self.engine,
            {"m"},
            links,
            GarbageBin(),
            watched=time.monotonic,
            on_change=lambda: None,
            tombstones=Tombstones(),
        )
        self.outbox = Outbox("replies", "i", asyncio.get_running_loop(), links, self.custody)
        self.custody.outbox, self.custody.desk = self.outbox, self.desk
        wire: Any = self.wire
        self.outbox.attach(wire)

    async def start(self) -> OutgoingStream:
        """A request has come, and its start is known."""
        request = Generate("c", 1, 1, "r", "m", Operation.CHAT, 60.0, b"{}")
        channel: Any = None
        delivery = Delivery(
            channel=channel,
            tag=7,
            consumer_tag="",
            body=codec.encode(request),
            redelivered=False,
            exchange="requests",
            routing_key="model.m",
            type=codec.type_of(request),
            content_type=codec.CONTENT_TYPE,
            reply_to=None,
            correlation_id=None,
            message_id=None,
            headers=None,
        )
        self.custody.take(Lease(delivery, Source(Role.MODEL, "m"), Incarnation(), None))
        frames, on_outcome = await self.wire.next()
        assert frames == [Started(1, 1, "w", "i")]
        on_outcome(Outcome.CONFIRMED)
        return self.engine.stream


async def all_is_heard() -> None:
    """The loop has had the turn that the engine asked for, and the one after it."""
    for _ in range(2):
        await asyncio.sleep(0)


@pytest.fixture
async def side() -> WorkerSide:
    return WorkerSide()


async def test_a_complete_answer_on_its_way_is_not_acked_and_a_confirmed_one_is_once(side: WorkerSide) -> None:
    stream = await side.start()
    stream.offer("all")
    stream.end()
    frames, on_outcome = await side.wire.next()
    assert frames == [Texts(1, 1, 0, ["all"]), End(1, 1, 1)]
    stream.released()
    await all_is_heard()
    assert side.desk.acked == []
    on_outcome(Outcome.CONFIRMED)
    assert len(side.desk.acked) == 1
    assert side.desk.freed == side.desk.acked
    side.custody.sweep()
    assert len(side.desk.acked) == 1


async def test_a_confirmed_answer_whose_engine_is_not_back_keeps_its_request(side: WorkerSide) -> None:
    stream = await side.start()
    stream.end()
    (await side.wire.next())[1](Outcome.CONFIRMED)
    assert side.desk.acked == side.desk.freed == []
    stream.released()
    await all_is_heard()
    assert len(side.desk.acked) == 1


async def test_a_confirmed_end_acks_nothing_while_what_came_before_it_is_not_confirmed(side: WorkerSide) -> None:
    stream = await side.start()
    stream.offer("a")
    _, on_first = await side.wire.next()
    stream.end()
    stream.released()
    _, on_last = await side.wire.next()
    on_last(Outcome.CONFIRMED)
    assert side.desk.acked == []
    on_first(Outcome.CONFIRMED)
    assert len(side.desk.acked) == 1


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.NACKED])
async def test_an_answer_that_the_broker_did_not_take_is_sent_again_before_it_is_acked(
    side: WorkerSide, outcome: Outcome
) -> None:
    stream = await side.start()
    stream.end()
    stream.released()
    (await side.wire.next())[1](outcome)
    side.outbox.sweep()
    frames, on_outcome = await side.wire.next()
    assert frames == [End(1, 1, 0)]
    assert side.desk.acked == []
    on_outcome(Outcome.CONFIRMED)
    assert len(side.desk.acked) == 1


async def test_an_answer_that_nobody_receives_for_now_needs_no_slot_but_its_request_stays(side: WorkerSide) -> None:
    stream = await side.start()
    stream.end()
    stream.released()
    (await side.wire.next())[1](Outcome.RETURNED)
    assert len(side.desk.freed) == 1
    assert side.desk.acked == []
    side.outbox.controller_spoke("c")
    frames, on_outcome = await side.wire.next()
    assert frames == [End(1, 1, 0)]
    assert side.desk.acked == []
    on_outcome(Outcome.CONFIRMED)
    assert len(side.desk.acked) == 1
