"""A worker's custody and outbox as they are, between an engine, a wire and a desk that are none."""

import asyncio
import time
from typing import Any

import pytest

from broker_wire import codec
from broker_wire.amqp import Delivery, Outcome
from broker_wire.garbage import GarbageBin
from broker_wire.messages import Generate, Operation, Started
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

    def __init__(self) -> None:
        self.started: list[Assignment] = []
        self.stream: OutgoingStream

    def start(self, assignment: Assignment, stream: OutgoingStream) -> None:
        self.started.append(assignment)
        self.stream = stream


class WorkerSide:
    """Worker "w", instance "i", with model "m"."""

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
        self.take()
        frames, on_outcome = await self.wire.next()
        assert frames == [Started(1, 1, "w", "i")]
        on_outcome(Outcome.CONFIRMED)
        return self.engine.stream

    def take(self, stream: int = 1, *, attempt: int = 1, redelivered: bool = False) -> None:
        """A request has come."""
        request = Generate("c", stream, attempt, "r", "m", Operation.CHAT, 60.0, b"{}")
        channel: Any = None
        delivery = Delivery(
            channel=channel,
            tag=7,
            consumer_tag="",
            body=codec.encode(request),
            redelivered=redelivered,
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


async def all_is_heard() -> None:
    """The loop has had the turn that the engine asked for, and the one after it."""
    for _ in range(2):
        await asyncio.sleep(0)
