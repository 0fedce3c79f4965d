"""A real worker and words of its controller that cross others, come twice, late, or for what is no longer so."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs

from broker_wire.messages import (
    Announce,
    Ask,
    Cancel,
    Done,
    End,
    Generate,
    GivenBack,
    Go,
    Gone,
    ModelCard,
    Resend,
    Started,
)
from broker_wire.topology import Topology
from tests.integration.amqp_harness import Proxy
from tests.integration.worker_harness import (
    QUICK,
    WITHIN,
    ControllerDouble,
    HandExecutor,
    announced_worker,
)
from tests.waiting import eventually
from workers_shim.session import LeaveReason, SessionConfig, WorkerSession

NEVER_AGAIN = structs.replace(QUICK, ask=600.0)
"""An `Ask` that is said again is not one that was repeated because it had no answer."""


@pytest.fixture
async def controller(broker_url: str, prefix: str) -> AsyncIterator[ControllerDouble]:
    async with ControllerDouble(broker_url, Topology(prefix)) as double:
        yield double


async def asked(controller: ControllerDouble, **fields: Any) -> Generate:
    """A request that the worker has asked for."""
    generate = await controller.submit(ask_first=True, **fields)
    await controller.frame(Ask, generate.stream)
    return generate


async def nothing_is_gone(controller: ControllerDouble, instance: str) -> None:
    """What was said to the worker until now was not answered by `Gone`."""
    await controller.tell(instance, Resend("c1", ((999, 1, 0),)))
    await controller.frame(Gone)
    assert [gone.stream for gone in controller.seen(Gone)] == [999]


async def test_a_go_that_comes_twice_starts_once(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await asked(controller)
        for _ in range(2):
            await controller.tell(worker.instance, Go("c1", generate.stream, 2))
        await worker.executor.next()
        await nothing_is_gone(controller, worker.instance)
        assert worker.executor.idle


async def test_a_go_for_a_newer_attempt_than_the_one_that_runs_stops_it_and_says_that_nobody_runs_that(
    controller: ControllerDouble, broker_url: str
) -> None:
    """The copy that asked has gone with its channel; the one that runs is fenced off."""
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        await controller.tell(worker.instance, Go("c1", generate.stream, 3))
        assert await controller.frame(Gone) == Gone(generate.stream, 3)
        assert stream.cancelled


async def test_what_has_asked_is_left_to_the_broker_when_the_channel_goes(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with (
        Proxy(broker_url) as proxy,
        announced_worker(controller, proxy.url, HandExecutor(), slots=1, patience=NEVER_AGAIN) as worker,
    ):
        generate = await asked(controller)
        proxy.cut()
        await controller.frame(Ask, generate.stream, count=2)
        assert worker.session._intake.pool.running == 1
        await controller.tell_when_there(worker.instance, Go("c1", generate.stream, 2))
        await worker.executor.next()


async def test_a_request_for_a_worker_that_is_gone_asks_where_it_falls_back_to(
    controller: ControllerDouble, broker_url: str
) -> None:
    """It may have run there: the broker dead-letters what a dead worker held, and calls that a first delivery."""
    async with announced_worker(controller, broker_url, HandExecutor()) as dying:
        own = controller.topology.own_queue("w1", "m").routing_key
        running = await controller.submit(key=own)
        await dying.executor.next()
        async with announced_worker(controller, broker_url, HandExecutor(), name="w2") as other:
            await asyncio.wait([dying.kill()])
            late = await controller.submit(key=own)
            for generate in (running, late):
                assert (await controller.frame(Ask, generate.stream)).worker == "w2"
            assert other.executor.idle


async def test_a_resend_of_an_older_attempt_is_not_answered(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await asked(controller)
        await controller.tell(worker.instance, Go("c1", generate.stream, 3))
        await controller.frame(Started)
        await controller.tell(worker.instance, Resend("c1", ((generate.stream, 2, 5),)))
        await nothing_is_gone(controller, worker.instance)


async def test_a_pinned_request_that_must_run_apart_waits_for_its_turn_however_long_and_is_not_gone_meanwhile(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=3) as worker:
        first = await asked(controller)
        await controller.tell(worker.instance, Go("c1", first.stream, 2, apart=60.0))
        _, stream = await worker.executor.next()
        pinned = await asked(controller, pinned=True, key="pinned.w1")
        await controller.tell(worker.instance, Go("c1", pinned.stream, 2, apart=60.0))
        # One that comes later has waited out its time here; so has the pinned one, but nobody else may have it.
        other = await asked(controller)
        await controller.tell(worker.instance, Go("c1", other.stream, 2, apart=60.0))
        await controller.frame(GivenBack, other.stream)
        assert controller.seen(GivenBack, pinned.stream) == []
        await controller.tell(worker.instance, Resend("c1", ((pinned.stream, 2, 0),)))
        await nothing_is_gone(controller, worker.instance)
        stream.end()
        stream.released()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == pinned


async def test_of_two_suspects_of_different_controllers_one_runs_and_the_other_is_given_back(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with (
        ControllerDouble(broker_url, controller.topology, "c2") as second,
        announced_worker(controller, broker_url, HandExecutor()) as worker,
    ):
        mine, others = await asked(controller), await asked(second)
        await controller.tell(worker.instance, Go("c1", mine.stream, 2, apart=60.0))
        assignment, _ = await worker.executor.next()
        assert assignment.generate == mine
        await second.tell(worker.instance, Go("c2", others.stream, 2, apart=60.0))
        assert await second.frame(GivenBack) == GivenBack(others.stream, 2)
        assert worker.executor.idle
        # It is in its queue again, and asks anew; no other controller has heard of it.
        await second.frame(Ask, others.stream, count=2)
        assert controller.seen(GivenBack) == []


async def test_a_worker_that_leaves_stays_until_its_last_answers_are_fetched(
    controller: ControllerDouble, broker_url: str
) -> None:
    """A confirm says that they are in the controller's queue, which may be the one that it has just lost."""
    patience = structs.replace(QUICK, farewell=60.0)
    async with announced_worker(controller, broker_url, HandExecutor(), patience=patience, grace=60.0) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        stream.offer("all")
        stream.end()
        stream.released()
        await controller.frame(End)
        await eventually(lambda: worker.session._custody.empty, WITHIN)
        worker.session.drain()
        await controller.tell(worker.instance, Resend("c1", ((generate.stream, 1, 0),)))
        await controller.frame(End, count=2)
        assert not worker.task.done()
        await controller.tell(worker.instance, Done("c1", (generate.stream,)))
        assert await asyncio.wait_for(worker.task, WITHIN) is LeaveReason.DRAINED


async def test_what_is_said_to_all_workers_of_a_model_is_heard_by_those_that_took_it_in_later(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await worker.session.add_model(ModelCard("n"))
        await controller.hears(Announce, count=2)
        generate = await controller.submit("n")
        _, stream = await worker.executor.next()
        await controller.control(controller.topology.model_key("n"), Cancel("c1", generate.stream))
        await eventually(lambda: stream.cancelled, WITHIN)


async def test_no_request_is_taken_that_could_not_be_answered(controller: ControllerDouble, broker_url: str) -> None:
    executor = HandExecutor()
    config = SessionConfig("w1", slots=1, speed=1.0, broker_url=broker_url, prefix=controller.topology.prefix)
    session = WorkerSession(config, executor, [ModelCard("m")], QUICK)
    connections, may_publish = session._connections, asyncio.Event()
    publish = connections._publish.run

    async def publish_later() -> None:
        await may_publish.wait()
        await publish()

    connections._publish.run = publish_later  # type: ignore[method-assign]
    task = asyncio.create_task(session.run())
    try:
        await eventually(lambda: connections._consume.connected, WITHIN)
        assert connections._control.open
        assert not session._intake.open
        may_publish.set()
        await controller.hears(Announce)
        await controller.submit()
        await executor.next()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
