"""A request for one worker and no other: it waits for it, however busy, and ends soon when that worker is dead."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker_controller.decisions import Limits
from broker_controller.errors import WorkerLostError, WorkerNotFoundError
from broker_controller.service import ControllerService
from broker_wire.messages import Started, Texts
from broker_wire.topology import Topology
from tests.integration.hand_worker import HandWorker
from tests.integration.test_gateway import read_all, running_service, submission
from tests.integration.worker_harness import ControllerDouble, HandExecutor, announced_worker
from tests.waiting import eventually


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix)


@asynccontextmanager
async def wanted_worker_and_another(
    broker_url: str, topology: Topology
) -> AsyncIterator[tuple[ControllerService, HandWorker, HandWorker]]:
    """The first has a last will; the other would take whatever is not for one worker alone."""
    async with (
        running_service(broker_url, topology, limits=Limits(grace=0.5)) as service,
        HandWorker(broker_url, topology, "w1", "m") as wanted,
        HandWorker(broker_url, topology, "w2", "m") as other,
    ):
        await wanted.make_will()
        wanted.announce(first=True)
        other.announce(first=True)
        await other.consume("model", "resume", "pinned")
        await eventually(lambda: len(service.controller.registry.workers()) == 2)
        yield service, wanted, other


async def test_however_many_are_pinned_to_a_busy_worker_it_runs_them_all_in_order(
    broker_url: str, topology: Topology
) -> None:
    async with (
        ControllerDouble(broker_url, topology) as controller,
        announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker,
    ):
        key = topology.pinned_queue("w1").routing_key
        pinned = [await controller.submit(key=key, pinned=True) for _ in range(3)]
        for generate in pinned:
            assignment, stream = await worker.executor.next()
            assert assignment.generate == generate
            assert worker.executor.idle
            stream.end()
            stream.released()


async def test_a_pinned_request_whose_queue_had_to_be_made_anew_is_sent_again(
    broker_url: str, topology: Topology
) -> None:
    async with wanted_worker_and_another(broker_url, topology) as (service, wanted, other):
        await wanted.consume("pinned")
        await service.gateway.submit(submission(pinned_worker="w1"))
        first, _ = await wanted.take()
        # Neither the model's queue nor that of another worker is where it waits.
        wanted.announce(made_queues=("m",))
        other.announce(made_pinned_queue=True)
        wanted.announce(made_pinned_queue=True)
        again, _ = await wanted.take()
        assert (again.stream, again.attempt) == (first.stream, 2)


async def test_a_pinned_request_that_waits_for_a_worker_that_dies_ends_with_the_time_of_grace(
    broker_url: str, topology: Topology
) -> None:
    async with wanted_worker_and_another(broker_url, topology) as (service, wanted, other):
        stream = await service.gateway.submit(submission(pinned_worker="w1"))
        await wanted.die()
        with pytest.raises(WorkerNotFoundError, match=r"'w1' has left, and did not come back in 0\.5 s"):
            await read_all(stream)
        assert other.deliveries.empty()


async def test_a_pinned_request_whose_worker_dies_with_it_ends_with_the_time_of_grace(
    broker_url: str, topology: Topology
) -> None:
    async with wanted_worker_and_another(broker_url, topology) as (service, wanted, other):
        await wanted.consume("pinned")
        stream = await service.gateway.submit(submission(pinned_worker="w1"))
        request, _ = await wanted.take()
        wanted.reply(request.controller, Started(request.stream, 1, "w1", wanted.instance))
        wanted.reply(request.controller, Texts(request.stream, 1, 0, ["a"]))
        assert await stream.wait(15)
        await wanted.die()
        with pytest.raises(WorkerLostError, match="for this worker only"):
            await read_all(stream)
        assert other.deliveries.empty()
