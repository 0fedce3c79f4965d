"""A worker whose broker has an alarm, restarts, crashes, or throws everybody out: on a node of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from broker_controller.private_node import PrivateNode, find_server
from broker_wire.messages import Announce, End, Heartbeat, Introduce, Resend, Started, Texts
from broker_wire.topology import Topology
from tests.integration.worker_harness import (
    WITHIN,
    ControllerDouble,
    HandExecutor,
    announced_worker,
    comes_true,
)
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(find_server() is None, reason="rabbitmq-server is not installed")
BACK = 60.0
"""Seconds for a node to start and for everybody to connect again."""


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateNode]:
    with PrivateNode() as node:
        yield node


@pytest.fixture
async def controller(node: PrivateNode, prefix: str) -> AsyncIterator[ControllerDouble]:
    async with ControllerDouble(node.url, Topology(prefix)) as double:
        yield double


async def ctl(node: PrivateNode, *arguments: str) -> str:
    return await asyncio.to_thread(node.rabbitmqctl, *arguments)


async def test_under_an_alarm_a_stream_waits_acks_pass_and_afterwards_the_answer_is_whole(
    node: PrivateNode, controller: ControllerDouble
) -> None:
    async with announced_worker(controller, node.url, HandExecutor(), slots=2, heartbeat_interval=0.2) as worker:
        await eventually(lambda: worker.session._will.made, WITHIN)
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        await controller.submit(remaining=5.0)
        _, short = await worker.executor.next()
        await eventually(lambda: len(controller.seen(Started)) == 2, WITHIN)
        try:
            await ctl(node, "set_vm_memory_high_watermark", "0.0000001")
            await eventually(lambda: worker.session._outbox._blocked, WITHIN)
            offered = 0
            while stream.offer("x" * 1000):
                offered += 1
                assert offered < 10_000
            in_flight = worker.session._outbox._in_flight
            # Its time is up: that needs no answer, and the ack is not held back with the replies.
            await eventually(lambda: short.cancelled, WITHIN)
            short.end()
            short.released()
            # This one is over, too, but its last frames are not confirmed: it has to stay with the broker.
            stream.end()
            stream.released()

            async def one_is_unacked() -> bool:
                listed = await ctl(node, "list_queues", "name", "messages_unacknowledged")
                return f"{controller.topology.prefix}.model.m\t1" in listed

            await comes_true(one_is_unacked)
            assert worker.session._outbox._in_flight == in_flight, "frames went into a connection that is blocked"
            assert not stream.cancelled
            controller.fleet.clear()
        finally:
            await ctl(node, "set_vm_memory_high_watermark", "0.4")
        await controller.frame(End)
        await eventually(lambda: worker.session._custody.empty, WITHIN)
        assert len(controller.text(generate.stream)) == (offered + 1) * 1000
        await controller.hears(Heartbeat)


async def test_the_grace_time_of_a_controller_does_not_pass_while_the_broker_is_blocked(
    node: PrivateNode, controller: ControllerDouble
) -> None:
    # Longer than rabbitmqctl takes on a busy machine to set off the alarm.
    grace = 10.0
    async with announced_worker(controller, node.url, HandExecutor(), grace=grace, heartbeat_interval=0.2) as worker:
        await controller.submit()
        _, stream = await worker.executor.next()
        await controller.frame(Started)
        await controller.lose_reply_queue()
        stream.offer("all")
        await eventually(lambda: not stream.wait_writable(0.0), WITHIN)
        try:
            await ctl(node, "set_vm_memory_high_watermark", "0.0000001")
            await eventually(lambda: worker.session._outbox._blocked, WITHIN)
            begin = worker.session._clock.now()
            loop = asyncio.get_running_loop()
            since = loop.time()
            await eventually(lambda: loop.time() - since > grace, WITHIN)
            assert worker.session._clock.now() == begin
            assert not stream.cancelled
        finally:
            await ctl(node, "set_vm_memory_high_watermark", "0.4")
        await eventually(lambda: stream.cancelled, WITHIN)


@pytest.mark.parametrize("how", ["restart", "crash", "admin"])
async def test_streams_go_on_after_the_broker_came_back(
    node: PrivateNode, controller: ControllerDouble, how: str
) -> None:
    # The controller may come back much later than the worker.
    async with announced_worker(controller, node.url, HandExecutor(), grace=BACK) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        stream.offer("0")
        await controller.frame(Texts)
        queue = controller.reply_queue
        if how == "admin":
            await ctl(node, "close_all_connections", "test")
        else:
            await asyncio.to_thread(node.stop if how == "restart" else node.kill)
            stream.offer("1")
            await asyncio.to_thread(node.start)
        stream.offer("2")
        await eventually(lambda: controller.reply_queue != queue, BACK)
        # What a controller does after every reconnect.
        await controller.tell_when_there(worker.instance, Resend("c1", ((generate.stream, 1, 1),)))
        stream.offer("3")
        stream.end()
        stream.released()
        end = await controller.frame(End)
        numbered = {frame.seq + i: text for frame in controller.seen(Texts) for i, text in enumerate(frame.texts)}
        assert "".join(numbered[seq] for seq in range(end.seq)) == ("023" if how == "admin" else "0123")
        await controller.tell(worker.instance, Introduce("c1"))
        await eventually(lambda: not controller.said(Announce)[-1].first, WITHIN)
        fresh = await controller.submit()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh
