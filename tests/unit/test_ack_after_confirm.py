"""A request is acked when the message with the end of its answer is confirmed, and not before: else a kill loses it."""

import pytest

from broker_wire.amqp import Outcome
from broker_wire.messages import End, Texts
from tests.unit.worker_side import WorkerSide, all_is_heard


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
