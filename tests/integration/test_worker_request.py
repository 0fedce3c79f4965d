"""One request on a real worker's broker side: from its delivery to its ack."""

from collections.abc import AsyncIterator

import pytest

from broker_wire.messages import End, Started, Texts
from broker_wire.topology import Topology
from tests.integration.worker_harness import ControllerDouble, HandExecutor, announced_worker


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix)


@pytest.fixture
async def controller(broker_url: str, topology: Topology) -> AsyncIterator[ControllerDouble]:
    async with ControllerDouble(broker_url, topology) as double:
        yield double


async def test_a_worker_says_started_before_it_begins_and_then_sends_every_chunk(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await controller.submit()
        assignment, stream = await worker.executor.next()
        started = await controller.frame(Started)
        assert assignment.generate == generate
        assert (started.worker, started.instance, started.attempt) == ("w1", worker.instance, 1)
        stream.offer("one ")
        stream.offer("two")
        stream.end("length")
        stream.released()
        end = await controller.frame(End)
        assert controller.text(generate.stream) == "one two"
        assert (end.seq, end.finish_reason) == (2, "length")
        assert isinstance(controller.frames[0], Started)
        assert controller.seen(Texts)[0].seq == 0
