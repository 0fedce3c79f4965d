"""A controller that nobody asks anything while its broker has an alarm: on a node of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from broker_controller.decisions import Limits
from broker_controller.private_node import PrivateNode, find_server
from broker_wire.messages import End, Generate, Progress, Started, Texts
from broker_wire.topology import Topology
from tests.integration.hand_worker import HandWorker
from tests.integration.test_gateway import read_all, running_service, submission
from tests.waiting import Eventually

pytestmark = pytest.mark.skipif(find_server() is None, reason="rabbitmq-server is not installed")
STALL_LIMIT = 2.0


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateNode]:
    with PrivateNode() as node:
        yield node


@asynccontextmanager
async def alarm(node: PrivateNode) -> AsyncIterator[None]:
    await asyncio.to_thread(node.rabbitmqctl, "set_vm_memory_high_watermark", "0.0000001")
    try:
        yield
    finally:
        await asyncio.to_thread(node.rabbitmqctl, "set_vm_memory_high_watermark", "0.4")


async def say_that_it_works(hand: HandWorker, request: Generate) -> None:
    while True:
        hand.reply(request.controller, Progress(request.stream, request.attempt))
        await asyncio.sleep(0.1)


async def test_an_idle_controller_hears_of_an_alarm_and_of_its_end(
    node: PrivateNode, prefix: str, eventually: Eventually
) -> None:
    async with running_service(node.url, Topology(prefix)) as service:
        async with alarm(node):
            await eventually(lambda: service.links.blocked, 10)
            assert not service.gateway.door.ready
        await eventually(lambda: service.gateway.door.ready, 10)


async def test_a_stream_that_an_alarm_holds_back_for_longer_than_the_stall_limit_does_not_move(
    node: PrivateNode, prefix: str, eventually: Eventually
) -> None:
    topology = Topology(prefix)
    async with (
        running_service(node.url, topology, limits=Limits(between_tokens=STALL_LIMIT)) as service,
        HandWorker(node.url, topology, "w1", "m") as hand,
    ):
        await hand.consume("model", "resume")
        stream = await service.gateway.submit(submission())
        request, _ = await hand.take()
        hand.reply(request.controller, Started(request.stream, 1, "w1", hand.instance))
        hand.reply(request.controller, Texts(request.stream, 1, 0, ["a"]))
        assert await stream.wait(15)
        assert stream.take() == ["a"]
        at_work = asyncio.create_task(say_that_it_works(hand, request))
        async with alarm(node):
            await eventually(lambda: service.links.blocked, 10)
            at_work.cancel()
            hand.reply(request.controller, Texts(request.stream, 1, 1, ["b"]), End(request.stream, 1, 2))
            assert not await stream.wait(2 * STALL_LIMIT)
        assert await read_all(stream) == ["b", End(request.stream, 1, 2)]
        assert stream.life.attempt == 1
