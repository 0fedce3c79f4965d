"""Requests as messages: they live as long as their client waits, on a real RabbitMQ."""

import asyncio

import pika
import pytest

from broker_wire.topology import Topology
from tests.integration.amqp_harness import Proxy
from tests.integration.hand_worker import HandWorker
from tests.integration.test_gateway import running_service, submission
from tests.waiting import Eventually


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix)


def get_one(url: str, queue: str) -> pika.BasicProperties:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        _, properties, _ = connection.channel().basic_get(queue, auto_ack=True)
    assert properties is not None
    return properties


async def test_a_request_is_transient_and_has_the_time_that_its_client_waits(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as hand:
        hand.announce(first=True)
        stream = await service.gateway.submit(submission(timeout=30))
        await eventually(lambda: stream.life.accepted)
        properties = await asyncio.to_thread(get_one, broker_url, topology.model_queue("m").name)
        assert properties.delivery_mode == 1
        assert properties.expiration is not None
        assert 20_000 < int(properties.expiration) <= 30_000


async def test_a_request_whose_time_is_up_leaves_a_queue_that_nobody_consumes(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as hand:
        hand.announce(first=True)
        await service.gateway.submit(submission(timeout=3))
        await eventually(lambda: service.queues.lengths == {"m": 1})
        await eventually(lambda: service.queues.lengths == {"m": 0})


async def test_what_is_sent_again_has_less_time_left(broker_url: str, topology: Topology) -> None:
    async with (
        Proxy(broker_url) as cable,
        running_service(cable.url, topology) as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
    ):
        await hand.consume("model")
        await service.gateway.submit(submission())
        first, _ = await hand.take()
        cable.cut()
        again, _ = await hand.take()
        assert (again.stream, again.attempt) == (first.stream, 2)
        assert again.remaining < first.remaining


async def test_whoever_waited_in_a_queue_that_had_to_be_made_anew_is_sent_again_at_once(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as hand:
        # What nobody speaks of is sent again after some seconds anyway: these do not pass here.
        service.gateway.watched.stop()
        hand.announce(first=True)
        await eventually(lambda: service.controller.list_models() == ["m"])
        await hand.consume("model")
        await service.gateway.submit(submission())
        first, _ = await hand.take()
        hand.announce(made_pinned_queue=True)
        hand.announce(made_queues=("m",))
        again, _ = await hand.take()
        assert (again.stream, again.attempt) == (first.stream, 2)
