"""Answers on a real worker's way out: what is lost, returned, asked for again, and let go."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker_wire.messages import (
    Announce,
    Ask,
    Done,
    End,
    Failed,
    FailureKind,
    Gone,
    Resend,
    RollCall,
    Started,
    Texts,
)
from broker_wire.topology import Topology
from tests.integration.amqp_harness import Proxy
from tests.integration.worker_harness import (
    WITHIN,
    ControllerDouble,
    HandExecutor,
    announced_worker,
)
from tests.waiting import eventually
from workers_shim.request import Chunk


@pytest.fixture
async def controller(broker_url: str, prefix: str) -> AsyncIterator[ControllerDouble]:
    async with ControllerDouble(broker_url, Topology(prefix)) as double:
        yield double


@pytest.fixture
async def proxy(broker_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(broker_url) as proxy:
        yield proxy


async def test_a_resend_brings_everything_from_that_number_on_again(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        for number in range(3):
            stream.offer(str(number))
            await controller.frame(Texts, count=number + 1)
        await controller.tell(worker.instance, Resend("c1", ((generate.stream, 1, 1),)))
        await controller.frame(Texts, count=5)
        assert [(frame.seq, frame.texts) for frame in controller.seen(Texts)[3:]] == [(1, ["1"]), (2, ["2"])]


async def test_an_answer_that_is_over_can_be_had_again_until_it_is_done(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), grace=30.0) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        stream.offer("all")
        stream.end()
        stream.released()
        await controller.frame(End)
        again = Resend("c1", ((generate.stream, 1, 0),))
        await controller.tell(worker.instance, again)
        await controller.frame(End, count=2)
        await controller.tell(worker.instance, Done("c1", (generate.stream,)))
        await controller.tell(worker.instance, again)
        await controller.frame(Gone)
        assert len(controller.seen(End)) == 2


@pytest.mark.parametrize(("attempt", "seq"), [(2, 0), (1, 5)], ids=["newer attempt", "number never sent"])
async def test_what_the_worker_does_not_hold_is_answered_gone(
    controller: ControllerDouble, broker_url: str, attempt: int, seq: int
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await controller.submit()
        await worker.executor.next()
        await controller.tell(worker.instance, Resend("c1", ((generate.stream, attempt, seq),)))
        gone = await controller.frame(Gone)
        assert (gone.stream, gone.attempt) == (generate.stream, attempt)


async def test_a_stream_whose_controller_has_no_queue_is_held_and_goes_on_where_it_was_when_that_speaks(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), grace=30.0) as worker:
        await controller.submit()
        _, stream = await worker.executor.next()
        stream.offer("0")
        await controller.frame(Texts)
        await controller.lose_reply_queue()
        stream.offer("1")
        await eventually(lambda: not stream.wait_writable(0.0), WITHIN)
        stream.offer("2")
        await controller.make_reply_queue()
        await controller.control(controller.topology.all_workers_key, RollCall("c1"))
        await eventually(lambda: controller.text(1) == "012", WITHIN)
        assert stream.wait_writable(WITHIN)
        stream.end()
        stream.released()
        assert (await controller.frame(End)).seq == 3


async def test_a_stream_whose_controller_does_not_come_back_is_stopped_after_the_grace_time_and_acked(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker:
        await controller.submit()
        _, stream = await worker.executor.next()
        stream.offer("0")
        await controller.frame(Texts)
        await controller.lose_reply_queue()
        stream.offer("1")
        await eventually(lambda: not stream.wait_writable(0.0), WITHIN)
        assert not stream.cancelled
        await eventually(lambda: stream.cancelled, WITHIN)
        stream.end()
        stream.released()
        await eventually(lambda: worker.session._custody.empty, WITHIN)
    assert await controller.waiting_requests() == 0


async def test_a_complete_answer_that_waits_for_its_controller_holds_no_slot(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with (
        ControllerDouble(broker_url, controller.topology, "c2") as other,
        announced_worker(controller, broker_url, HandExecutor(), slots=1, grace=30.0) as worker,
    ):
        await controller.submit()
        _, stream = await worker.executor.next()
        await controller.frame(Started)
        await controller.lose_reply_queue()
        stream.offer("all")
        stream.end()
        stream.released()
        fresh = await other.submit()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh
        await controller.make_reply_queue()
        await controller.tell(worker.instance, Resend("c1", ((1, 1, 0),)))
        await controller.frame(End)
        assert controller.text(1) == "all"


@pytest.mark.parametrize("slots", [1, 2], ids=["copy comes after the end", "copy comes while it runs"])
async def test_a_worker_whose_connections_break_goes_on_and_acks_the_copy_that_comes_back_to_it(
    controller: ControllerDouble, proxy: Proxy, slots: int
) -> None:
    async with announced_worker(controller, proxy.url, HandExecutor(), slots=slots) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        stream.offer("0")
        await controller.frame(Texts)
        proxy.cut()
        stream.offer("1")
        await controller.hears(Announce, count=2)
        stream.offer("2")
        await eventually(lambda: controller.text(generate.stream) == "012", WITHIN)
        stream.end()
        stream.released()
        await controller.frame(End)
        # With one slot its copy has to wait for the end; it is recognised all the same.
        fresh = await controller.submit()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh
        assert controller.seen(Ask) == []
    first, *others = [announce.first for announce in controller.said(Announce)]
    assert first
    assert not any(others), "a reconnect claimed the name again"


async def test_what_was_published_and_not_confirmed_when_the_connection_broke_is_sent_again(
    controller: ControllerDouble, proxy: Proxy
) -> None:
    async with announced_worker(controller, proxy.url, HandExecutor(), slots=2) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        stream.offer("0")
        await controller.frame(Texts)
        proxy.freeze()
        stream.offer("1")
        await eventually(lambda: worker.session._outbox._in_flight > 0, WITHIN)
        stream.offer("2")
        stream.end()
        stream.released()
        await asyncio.sleep(0)
        proxy.cut()
        proxy.thaw()
        await controller.frame(End)
        assert controller.text(generate.stream).endswith("12")
        await eventually(lambda: worker.session._custody.empty, WITHIN)


async def test_a_started_that_was_lost_with_the_connection_is_said_again(
    controller: ControllerDouble, proxy: Proxy
) -> None:
    async with announced_worker(controller, proxy.url, HandExecutor()) as worker:
        assert worker.session._connections._publishing is not None
        await worker.session._connections._publishing.close("test")
        await controller.submit()
        await worker.executor.next()
        assert (await controller.frame(Started)).instance == worker.instance


async def test_an_engine_that_is_faster_than_the_broker_waits_at_a_bounded_buffer(
    controller: ControllerDouble, proxy: Proxy
) -> None:
    async with announced_worker(controller, proxy.url, HandExecutor()) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        await controller.frame(Started)
        proxy.freeze()
        chunk = "x" * 10_000
        offered = 0
        for _ in range(2_000):
            offered += 1
            if not stream.offer(chunk):
                # The loop may have had no time yet to take what is there.
                await asyncio.sleep(0.01)
                if not stream.wait_writable(0.0):
                    break
        assert offered < 1_000, "20 MB went into a connection that takes nothing"
        proxy.thaw()
        await eventually(lambda: stream.wait_writable(0.0), WITHIN)
        stream.end()
        stream.released()
        await controller.frame(End)
        assert len(controller.text(generate.stream)) == offered * len(chunk)


async def test_a_chunk_that_the_broker_does_not_take_ends_its_own_stream_only(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await controller.submit()
        _, large = await worker.executor.next()
        await controller.submit()
        _, other = await worker.executor.next()
        large.offer(Chunk(payload=b"x" * (129 * 1024 * 1024)))
        other.offer("fine")
        failed = await controller.frame(Failed)
        assert (failed.stream, failed.kind) == (1, FailureKind.ENGINE)
        assert large.cancelled
        await eventually(lambda: controller.text(2) == "fine", WITHIN)
        assert not other.cancelled


async def test_a_publishing_channel_that_the_broker_closed_is_opened_again(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        await controller.frame(Started)
        channel = worker.session._outbox._channel
        assert channel is not None
        channel.publish("no such exchange", "k", b"", type="x")
        stream.offer("all")
        stream.end()
        stream.released()
        await controller.frame(End)
        assert controller.text(generate.stream).endswith("all")
