"""What a worker says of itself: when, how often, and what is said again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import structs

from broker_wire import codec
from broker_wire.amqp import Outcome
from broker_wire.messages import Announce, FleetMessage, Heartbeat, Load, WorkerState
from broker_wire.topology import Topology
from tests.waiting import eventually
from workers_shim import announcer as announcer_module
from workers_shim.announcer import Announcer, Condition
from workers_shim.config import SessionConfig
from workers_shim.slot_decisions import Role, Source

READY = Condition(WorkerState.READY, Load(), 0, 0, (), reachable=True)


class Wire:
    """The channel's place: keeps what is published, and says what comes of it."""

    def __init__(self) -> None:
        self.said: list[FleetMessage] = []
        self.outcome = Outcome.CONFIRMED

    def publish(self, _exchange: str, _key: str, body: bytes, *, type: str, on_outcome: Any) -> None:  # noqa: A002
        self.said.append(codec.decode_fleet(body, codec.CONTENT_TYPE))
        if on_outcome is not None:
            on_outcome(self.outcome)

    def heard(self, kind: type[FleetMessage]) -> list[Any]:
        return [message for message in self.said if isinstance(message, kind)]


class Speaker:
    """An announcer, the way out, and the condition that it tells."""

    def __init__(self, heartbeat_interval: float, roll_call_jitter: float) -> None:
        self.wire = Wire()
        self.condition = READY
        self.asked = 0
        config = SessionConfig("w", 1, 1.0, "amqp://a", heartbeat_interval=heartbeat_interval)
        self.announcer = Announcer(config, "i", Topology("p"), self._condition, roll_call_jitter=roll_call_jitter)
        wire: Any = self.wire
        self.announcer.attach(wire)

    def _condition(self) -> Condition:
        self.asked += 1
        return self.condition


@asynccontextmanager
async def speaking(heartbeat_interval: float = 0.01, roll_call_jitter: float = 0.0) -> AsyncIterator[Speaker]:
    """One that has announced, and speaks on."""
    speaker = Speaker(heartbeat_interval, roll_call_jitter)
    speaker.announcer.announce()
    task = asyncio.create_task(speaker.announcer.run())
    try:
        yield speaker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_worker_that_no_request_reaches_gives_no_sign_of_life() -> None:
    """Its obituary is out already, and a heartbeat would bring it back."""
    async with speaking() as speaker:
        await eventually(lambda: speaker.wire.heard(Heartbeat))
        speaker.condition = structs.replace(READY, reachable=False)
        said, asked = len(speaker.wire.said), speaker.asked
        await eventually(lambda: speaker.asked > asked + 3)
        assert len(speaker.wire.said) == said
        speaker.condition = READY
        await eventually(lambda: len(speaker.wire.said) > said)


async def test_while_the_broker_holds_publishers_back_nothing_is_said_and_afterwards_how_things_are() -> None:
    async with speaking(heartbeat_interval=600.0) as speaker:
        speaker.announcer.set_blocked(True)
        said = len(speaker.wire.said)
        for running in range(50):
            speaker.condition = structs.replace(READY, load=Load(running))
            speaker.announcer.changed()
            await asyncio.sleep(0)
        speaker.announcer.announce()
        assert len(speaker.wire.said) == said
        speaker.announcer.set_blocked(False)
        await eventually(lambda: len(speaker.wire.said) == said + 1)
        [told] = speaker.wire.said[said:]
        assert isinstance(told, Announce)
        assert told.load.running == 49


async def test_a_load_that_changes_all_the_time_is_told_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer_module, "CHANGE_INTERVAL", 0.2)
    loop = asyncio.get_running_loop()
    async with speaking(heartbeat_interval=600.0) as speaker:
        began = loop.time()

        def several() -> bool:
            speaker.announcer.changed()
            return len(speaker.wire.heard(Heartbeat)) >= 3

        await eventually(several)
        # The first one is told at once, each other one an interval after it, less the jitter.
        most = 1 + (loop.time() - began) / (0.2 * (1 - announcer_module.JITTER))
        assert len(speaker.wire.heard(Heartbeat)) <= most
        assert speaker.asked < 20


async def test_the_time_between_two_heartbeats_is_drawn_from_a_tenth_up_and_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranges = set()

    def draw(low: float, high: float) -> float:
        ranges.add((low, high))
        return 0.0

    monkeypatch.setattr("random.uniform", draw)
    async with speaking(heartbeat_interval=600.0) as speaker:
        await eventually(lambda: len(speaker.wire.heard(Heartbeat)) >= 3)
    assert ranges == {(0.9, 1.1)}


async def test_several_roll_calls_have_one_answer_within_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.5)
    loop = asyncio.get_running_loop()
    speaker = Speaker(600.0, roll_call_jitter=0.2)
    called = loop.time()
    for _ in range(3):
        speaker.announcer.answer_roll_call()
    await eventually(lambda: speaker.wire.said)
    assert loop.time() - called >= 0.09, "every worker of a fleet would answer at the same moment"
    await eventually(lambda: loop.time() - called > 0.3)
    assert len(speaker.wire.said) == 1


async def test_what_became_of_queues_and_the_claim_to_the_name_are_said_until_one_announce_is_confirmed() -> None:
    speaker = Speaker(600.0, 0.0)
    speaker.announcer.queue_made(Source(Role.MODEL, "m"))
    speaker.announcer.queue_made(Source(Role.PINNED))
    speaker.announcer.requests_requeued()
    speaker.wire.outcome = Outcome.LOST
    speaker.announcer.announce()
    speaker.wire.outcome = Outcome.CONFIRMED
    speaker.announcer.announce()
    speaker.announcer.announce()
    announces = speaker.wire.heard(Announce)
    assert [announce.made_queues for announce in announces] == [("m",), ("m",), ()]
    assert [announce.made_pinned_queue for announce in announces] == [True, True, False]
    assert [announce.requeued for announce in announces] == [True, True, False]
    assert [announce.first for announce in announces] == [True, True, False]
