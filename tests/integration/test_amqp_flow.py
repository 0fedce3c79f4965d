"""The bounded outgoing buffer: who publishes too much waits, and goes on when the broker has caught up."""

import asyncio

import pytest
from pika import spec
from pika.frame import Method

from broker_wire.amqp import HIGH_WATER, Outcome
from broker_wire.errors import NotConnectedError
from broker_wire.topology import Queue
from tests.integration.amqp_harness import WAIT, Proxy, connected
from tests.waiting import Eventually

EXCLUSIVE = Queue("", "", "", {}, exclusive=True)
PIECE = bytes(64 * 1024)


async def test_a_publisher_on_an_idle_channel_does_not_wait(broker_url: str) -> None:
    async with connected(broker_url) as client:
        channel = await client.session.channel(confirms=True)
        await channel.writable(0)
        assert not channel.congested


@pytest.mark.parametrize("confirms", [True, False])
async def test_above_the_mark_a_publisher_waits_until_the_broker_has_caught_up(
    broker_url: str, confirms: bool, eventually: Eventually
) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        channel = await client.session.channel(confirms=confirms)
        name = (await channel.declare_queue(EXCLUSIVE)).name
        proxy.freeze()
        outcomes: list[Outcome] = []
        published = 0
        # Without confirms the system's socket buffers take some megabytes, too.
        while not channel.congested and published < 100 * HIGH_WATER:
            channel.publish("", name, PIECE, type="t", on_outcome=outcomes.append)
            published += len(PIECE)
            await asyncio.sleep(0)
        assert channel.congested
        assert (channel.unconfirmed_bytes > HIGH_WATER) == confirms
        with pytest.raises(TimeoutError):
            await channel.writable(0.05)
        waiting = asyncio.create_task(channel.writable(WAIT))
        proxy.thaw()
        await waiting
        assert not channel.congested
        await eventually(lambda: channel.unconfirmed_bytes == 0)
        assert outcomes == [Outcome.CONFIRMED] * (published // len(PIECE) if confirms else 0)


async def test_a_publisher_that_waits_is_told_when_the_connection_goes(broker_url: str, prefix: str) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        channel = await client.session.channel(confirms=True)
        proxy.freeze()
        channel.publish("", prefix, bytes(HIGH_WATER + 1), type="t")
        waiting = asyncio.create_task(channel.writable(WAIT))
        await asyncio.sleep(0)
        proxy.cut()
        with pytest.raises(NotConnectedError, match="lost"):
            await waiting
        with pytest.raises(NotConnectedError):
            await channel.writable(WAIT)


async def test_a_blocked_connection_holds_publishers_until_it_is_unblocked(
    broker_url: str, eventually: Eventually
) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        channel = await client.session.channel(confirms=True)
        proxy.say_to_client(Method(0, spec.Connection.Blocked("low on memory")).marshal())
        await eventually(lambda: client.blocked == [True])
        assert client.connection.blocked
        assert channel.congested
        waiting = asyncio.create_task(channel.writable(WAIT))
        await asyncio.sleep(0)
        assert not waiting.done()
        proxy.say_to_client(Method(0, spec.Connection.Unblocked()).marshal())
        await waiting
        assert client.blocked == [True, False]
        assert not client.connection.blocked


async def test_a_blocked_connection_that_goes_is_blocked_no_more(broker_url: str, eventually: Eventually) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        proxy.say_to_client(Method(0, spec.Connection.Blocked("low on memory")).marshal())
        await eventually(lambda: client.blocked == [True])
        proxy.cut()
        await eventually(lambda: client.blocked == [True, False])
        await client.connection.wait_connected(WAIT)
        assert not (await client.session.channel()).congested


async def test_many_publishes_arrive_in_their_order_and_each_is_confirmed(
    broker_url: str, eventually: Eventually
) -> None:
    async with connected(broker_url) as client:
        channel = await client.session.channel(confirms=True)
        name = (await channel.declare_queue(EXCLUSIVE)).name
        arrived: list[bytes] = []
        outcomes: list[Outcome] = []
        await channel.consume(name, lambda delivery: arrived.append(delivery.body), no_ack=True)
        for number in range(5_000):
            await channel.writable(WAIT)
            channel.publish(
                "", name, str(number).encode() + PIECE[: number % 3000], type="t", mandatory=True,
                on_outcome=outcomes.append,
            )  # fmt: skip
        await eventually(lambda: len(arrived) == 5_000 and len(outcomes) == 5_000)
        assert [int(body.rstrip(b"\0")) for body in arrived] == list(range(5_000))
        assert set(outcomes) == {Outcome.CONFIRMED}
        assert channel.unconfirmed_bytes == 0
