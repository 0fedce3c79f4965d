"""What must run apart begins when the broker has the news of it: else who waits beside it is taken for its killer."""

import pytest

from broker_wire.amqp import Outcome
from broker_wire.messages import Ask, Go, Started
from tests.unit.worker_side import WorkerSide, all_is_heard


@pytest.fixture
async def side() -> WorkerSide:
    """It has asked for stream 1, which was redelivered."""
    side = WorkerSide()
    await ask_for(side, 1)
    return side


async def ask_for(side: WorkerSide, stream: int) -> None:
    side.take(stream, redelivered=True)
    frames, on_outcome = await side.wire.next()
    assert frames == [Ask(stream, 1, "w", "i")]
    on_outcome(Outcome.CONFIRMED)


def grant(side: WorkerSide, stream: int, apart: float) -> None:
    held = side.custody.find(("c", stream))
    assert held is not None
    side.custody.grant(held, Go("c", stream, 2, apart=apart))


async def test_a_suspect_begins_when_the_news_is_confirmed(side: WorkerSide) -> None:
    grant(side, 1, apart=2.0)
    frames, on_outcome = await side.wire.next()
    assert frames == [Started(1, 2, "w", "i")]
    assert side.engine.started == []
    on_outcome(Outcome.CONFIRMED)
    [assignment] = side.engine.started
    assert assignment.suspect


async def test_one_that_nothing_is_known_against_begins_at_once(side: WorkerSide) -> None:
    grant(side, 1, apart=0.0)
    assert len(side.engine.started) == 1


async def test_a_suspect_that_waits_for_another_one_says_nothing(side: WorkerSide) -> None:
    await ask_for(side, 2)
    grant(side, 1, apart=60.0)
    grant(side, 2, apart=60.0)
    frames, on_outcome = await side.wire.next()
    assert frames == [Started(1, 2, "w", "i")]
    on_outcome(Outcome.CONFIRMED)
    await all_is_heard()
    assert [assignment.generate.stream for assignment in side.engine.started] == [1]
    assert side.wire.messages == []


async def test_news_that_was_lost_goes_out_again_and_the_suspect_begins_once(side: WorkerSide) -> None:
    grant(side, 1, apart=2.0)
    (await side.wire.next())[1](Outcome.LOST)
    assert side.engine.started == []
    frames, on_outcome = await side.wire.next()
    assert frames == [Started(1, 2, "w", "i")]
    on_outcome(Outcome.CONFIRMED)
    assert len(side.engine.started) == 1


async def test_a_suspect_that_is_stopped_before_it_begins_never_does_and_frees_its_slot(side: WorkerSide) -> None:
    grant(side, 1, apart=2.0)
    _, on_outcome = await side.wire.next()
    held = side.custody.find(("c", 1))
    assert held is not None
    side.custody.stop(held)
    assert side.desk.acked == side.desk.freed == [held.lease]
    assert side.custody.empty
    on_outcome(Outcome.CONFIRMED)
    assert side.engine.started == []
