"""Two copies of one request at one worker: its controller published it again, and the first was there all the same."""

import pytest

from broker_wire.amqp import Outcome
from broker_wire.messages import Ask, Go, Started
from tests.unit.worker_side import WorkerSide, all_is_heard


@pytest.fixture
async def side() -> WorkerSide:
    return WorkerSide()


async def test_a_newer_copy_takes_the_place_of_one_that_has_asked_and_asks_too(side: WorkerSide) -> None:
    """The older question may be granted already, and this one would be fenced off if it started."""
    side.take(redelivered=True)
    side.take(attempt=2)

    frames, on_outcome = await side.wire.next()
    on_outcome(Outcome.CONFIRMED)
    held = side.custody.find(("c", 1))
    assert held is not None
    assert held.attempt == 2
    assert frames == [Ask(1, 1, "w", "i"), Ask(1, 2, "w", "i")]
    assert len(side.desk.acked) == 1

    side.custody.grant(held, Go("c", 1, 3))
    frames, _ = await side.wire.next()
    assert frames == [Started(1, 3, "w", "i")]
    assert len(side.engine.started) == 1


async def test_a_newer_copy_takes_the_place_of_one_that_runs_and_starts(side: WorkerSide) -> None:
    await side.start()
    side.take(attempt=2)

    frames, _ = await side.wire.next()
    assert frames == [Started(1, 2, "w", "i")]
    assert len(side.engine.started) == 2


async def test_an_older_or_equal_copy_is_acked(side: WorkerSide) -> None:
    side.take(attempt=2)
    side.take(attempt=1, redelivered=True)
    side.take(attempt=2, redelivered=True)
    await all_is_heard()

    assert len(side.desk.acked) == 2
    assert len(side.engine.started) == 1
