"""What a controller asks its fleet, and tells it in one go: against workers played by hand, on a real RabbitMQ."""

import time

import pytest

from broker_wire.messages import Done, End, RollCall, Started
from broker_wire.topology import Topology
from tests.integration.hand_worker import HandWorker
from tests.integration.test_gateway import read_all, running_service, submission
from tests.waiting import Eventually


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix)


async def test_a_roll_call_waits_no_longer_for_a_silent_worker_than_its_time_and_keeps_it(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as silent:
        silent.announce(first=True)
        await eventually(lambda: service.controller.list_models() == ["m"])
        began = time.monotonic()
        await service.fleet.roll_call(1.0)
        assert 0.9 < time.monotonic() - began < 5.0
        assert await silent.told(RollCall)
        assert service.controller.list_models() == ["m"]


async def test_a_worker_hears_of_all_that_ended_since_the_last_look_in_one_message(
    broker_url: str, topology: Topology
) -> None:
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as hand:
        await hand.consume("model")
        streams = [await service.gateway.submit(submission()) for _ in range(2)]
        numbers = [(await hand.take())[0].stream for _ in streams]
        starts = [Started(number, 1, "w1", hand.instance) for number in numbers]
        hand.reply(service.controller_id, *starts, *(End(number, 1, 0) for number in numbers))
        for stream in streams:
            await read_all(stream)
        done = await hand.told(Done)
        assert isinstance(done, Done)
        assert sorted(done.streams) == sorted(numbers)
