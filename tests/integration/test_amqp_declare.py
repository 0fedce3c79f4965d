"""Declaring what several versions and sides share: the first creates, the others use what is there."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from broker_wire.amqp import Delivery, declare_queues, declare_topology, queue_ready_counts
from broker_wire.errors import ChannelClosedError
from broker_wire.topology import Queue, QueueBounds, QueueType, Topology
from tests.integration.amqp_harness import WAIT, Client, Proxy, connected


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix)


@pytest.fixture
async def client(broker_url: str, topology: Topology) -> AsyncIterator[Client]:
    async with connected(broker_url) as running:
        await declare_topology(running.session, topology.exchanges())
        yield running
        channel = await running.session.channel()
        await channel.delete_queue(topology.model_queue("m").name)


async def test_the_first_declarer_learns_that_it_created_the_queue(client: Client, topology: Topology) -> None:
    queues = [topology.model_queue("m"), topology.reply_queue("c")]
    created = await declare_queues(client.session, queues)
    assert topology.model_queue("m").name in created
    # The reply queue's name is the broker's choice.
    assert len(created) == 2
    assert await declare_queues(client.session, [topology.model_queue("m")]) == set()


async def test_a_declared_queue_is_bound_even_if_it_was_there(client: Client, topology: Topology) -> None:
    queue = topology.model_queue("m")
    await declare_queues(client.session, [queue])
    channel = await client.session.channel(confirms=True)
    await channel.unbind(queue.name, queue.exchange, queue.routing_key)
    await declare_queues(client.session, [queue])
    await channel.publish_confirmed(queue.exchange, queue.routing_key, b"x", type="t", timeout=WAIT, mandatory=True)


async def test_a_queue_with_other_arguments_is_used_and_an_operator_is_told_once(
    client: Client, topology: Topology, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    await declare_queues(client.session, [topology.model_queue("m")])
    other = Topology(prefix, QueueBounds(max_length=7)).model_queue("m")
    assert await declare_queues(client.session, [other]) == set()
    assert await declare_queues(client.session, [other]) == set()
    warnings = [record.getMessage() for record in caplog.records if "used as it is" in record.getMessage()]
    assert len(warnings) == 1
    assert other.name in warnings[0]
    assert "406" in warnings[0]
    channel = await client.session.channel(confirms=True)
    await channel.publish_confirmed(other.exchange, other.routing_key, b"x", type="t", timeout=WAIT, mandatory=True)


async def test_the_operator_is_not_told_again_after_a_reconnect(
    client: Client, broker_url: str, topology: Topology, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    await declare_queues(client.session, [topology.model_queue("m")])
    other = Topology(prefix, QueueBounds(max_length=7)).model_queue("m")
    async with (
        Proxy(broker_url) as proxy,
        connected(proxy.url, lambda session: declare_queues(session, [other])) as second,
    ):
        await second.session.close("again")
        await second.connection.wait_connected(WAIT)
        assert len(second.sessions) == 2
    assert caplog.text.count("used as it is") == 1


async def test_an_exchange_of_another_type_is_used(client: Client, topology: Topology) -> None:
    await declare_topology(client.session, {topology.requests: "topic"})
    assert client.lost == []


async def test_a_queue_that_another_connection_holds_alone_is_an_error(
    client: Client, broker_url: str, topology: Topology
) -> None:
    queue = topology.bridge_queue("http://worker")
    await declare_queues(client.session, [queue])
    async with connected(broker_url) as other:
        with pytest.raises(ChannelClosedError) as refusal:
            await declare_queues(other.session, [queue])
        assert refusal.value.code == 405


async def test_a_queue_that_the_broker_refuses_is_an_error(client: Client, topology: Topology) -> None:
    bad = msgspec.structs.replace(topology.model_queue("m"), arguments={"x-message-ttl": "soon"})
    with pytest.raises(ChannelClosedError, match="406"):
        await declare_queues(client.session, [bad])


async def test_a_quorum_queue_keeps_a_message_that_is_given_back(client: Client, prefix: str) -> None:
    queue = Topology(f"{prefix}q", QueueBounds(type=QueueType.QUORUM)).model_queue("m")
    await declare_topology(client.session, {queue.exchange: "direct"})
    await declare_queues(client.session, [queue])
    channel = await client.session.channel(confirms=True)
    try:
        await channel.publish_confirmed(queue.exchange, queue.routing_key, b"x", type="t", timeout=WAIT)
        for given_back_before in (False, True, True):
            arrived: asyncio.Queue[Delivery] = asyncio.Queue()
            channel.consume_soon(queue.name, arrived.put_nowait, prefetch=1)
            delivery = await asyncio.wait_for(arrived.get(), WAIT)
            assert delivery.redelivered == given_back_before
            channel.cancel(delivery.consumer_tag)
            channel.nack(delivery.tag)
    finally:
        await channel.delete_queue(queue.name)


async def test_lengths_are_read_and_a_missing_queue_has_none(client: Client, topology: Topology, prefix: str) -> None:
    queue = topology.model_queue("m")
    await declare_queues(client.session, [queue])
    channel = await client.session.channel(confirms=True)
    for _ in range(3):
        await channel.publish_confirmed(queue.exchange, queue.routing_key, b"x", type="t", timeout=WAIT)
    counts = await queue_ready_counts(client.session.channel, [f"{prefix}.a", queue.name, f"{prefix}.b"])
    assert counts == {f"{prefix}.a": None, queue.name: 3, f"{prefix}.b": None}
    own = Queue("", "", "", {}, exclusive=True)
    assert (await channel.declare_queue(own)).ready == 0
