"""What is progress of a stream and what a stall: a controller and workers played by hand, on a real RabbitMQ."""

import pytest

from broker_controller.decisions import Limits
from broker_controller.streams import HIGH_WATER
from broker_wire.messages import Pause, Progress, Resume, Started, Stop, Texts
from broker_wire.topology import Topology
from tests.integration.hand_worker import HandWorker
from tests.integration.test_gateway import running_service, submission
from tests.waiting import Eventually


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix)


async def test_a_worker_that_says_that_it_works_keeps_its_stream_and_one_that_falls_silent_loses_it(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with (
        running_service(broker_url, topology, limits=Limits(first_token=2.0)) as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
    ):
        await hand.consume("model", "resume")
        stream = await service.gateway.submit(submission())
        request, _ = await hand.take()
        hand.reply(request.controller, Started(request.stream, 1, "w1", hand.instance))
        await eventually(lambda: stream.start is not None)
        for _ in range(12):
            hand.reply(request.controller, Progress(request.stream, 1))
            assert not await stream.wait(0.3)
        assert stream.life.attempt == 1
        moved, _ = await hand.take()
        assert (moved.stream, moved.attempt, moved.ask_first) == (request.stream, 2, True)
        assert await hand.told(Stop) == Stop(request.controller, request.stream, 1)


async def test_a_stream_whose_client_reads_nothing_is_no_stall_until_it_reads_again(
    broker_url: str, topology: Topology
) -> None:
    async with (
        running_service(broker_url, topology, limits=Limits(between_tokens=0.5)) as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
    ):
        await hand.consume("model", "resume")
        stream = await service.gateway.submit(submission())
        request, _ = await hand.take()
        hand.reply(
            request.controller,
            Started(request.stream, 1, "w1", hand.instance),
            Texts(request.stream, 1, 0, ["x" * (HIGH_WATER + 1)]),
        )
        assert await hand.told(Pause) == Pause(request.controller, request.stream)
        assert await hand.comes_nothing(2.0)
        assert stream.life.attempt == 1
        assert len(stream.take()) == 1
        assert await hand.told(Resume) == Resume(request.controller, request.stream)
        moved, _ = await hand.take()
        assert (moved.stream, moved.attempt, moved.ask_first) == (request.stream, 2, True)
