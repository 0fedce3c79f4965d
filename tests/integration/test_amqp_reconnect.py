"""A connection comes back, whatever takes it away and whenever."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import uvloop

from broker_wire.amqp import (
    Channel,
    Delivery,
    Outcome,
    Session,
    declare_queues,
    declare_topology,
    parse_broker_url,
    raw_channel,
)
from broker_wire.amqp import connection as connection_module
from broker_wire.errors import BrokerError, ChannelClosedError, NotConnectedError
from broker_wire.topology import Queue, Topology
from tests.integration.amqp_harness import WAIT, Client, Proxy, connected, running
from tests.waiting import Eventually

EXCLUSIVE = Queue("", "", "", {}, exclusive=True)


async def test_after_a_cut_the_topology_is_declared_anew_and_consumers_run(
    broker_url: str, prefix: str, eventually: Eventually
) -> None:
    topology = Topology(prefix)
    arrived: list[bytes] = []
    channels: list[Channel] = []

    async def prepare(session: Session) -> None:
        await declare_topology(session, topology.exchanges())
        (name,) = await declare_queues(session, [topology.reply_queue("controller")])
        channel = await session.channel(confirms=True)
        await channel.consume(name, lambda delivery: arrived.append(delivery.body), no_ack=True)
        channels.append(channel)

    async with Proxy(broker_url) as proxy, connected(proxy.url, prepare) as client:
        for number in range(3):
            body, channel = str(number).encode(), channels[-1]
            await channel.publish_confirmed(
                topology.replies, "controller", body, type="t", timeout=WAIT, mandatory=True
            )
            await eventually(partial(arrived.__contains__, body))
            proxy.cut()
            await eventually(partial(client.has_lost, number + 1))
            assert not channel.open
            await client.connection.wait_connected(WAIT)
        assert len(channels) == 4
        assert all("lost" in str(error) for error in client.lost)
        assert client.connection.last_error is None


async def test_the_next_address_is_tried_when_one_refuses_and_when_its_node_goes(
    broker_url: str, eventually: Eventually
) -> None:
    async with Proxy(broker_url) as first, Proxy(broker_url) as second:
        first.refuse()
        async with connected(f"{first.url},{second.url}") as client:
            assert second.accepted == 1
            await first.listen()
            second.refuse()
            await eventually(lambda: len(client.lost) == 1)
            await client.connection.wait_connected(WAIT)
            assert first.accepted == 1


async def test_a_broker_that_comes_late_is_found(broker_url: str, eventually: Eventually) -> None:
    async with Proxy(broker_url) as proxy:
        proxy.refuse()
        async with running(proxy.url) as client:
            await eventually(lambda: client.connection.last_error is not None)
            with pytest.raises(BrokerError, match="nothing listens"):
                await client.connection.wait_connected(0.01)
            assert not client.connection.connected
            await proxy.listen()
            await client.connection.wait_connected(WAIT)
            assert client.connection.connected
            assert client.lost == []


async def test_a_cut_while_preparing_begins_again_at_once(broker_url: str, eventually: Eventually) -> None:
    cancelled: list[bool] = []

    async def hang_the_first_time(_: Session) -> None:
        if not cancelled:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)

    async with Proxy(broker_url) as proxy, running(proxy.url, hang_the_first_time) as client:
        await eventually(lambda: len(client.sessions) == 1)
        proxy.cut()
        # The deadline of a preparation is 30 s; nobody may wait for that when the connection is gone.
        await client.connection.wait_connected(WAIT)
        assert cancelled == [True]
        assert len(client.sessions) == 2
        assert client.lost == []


async def test_a_connection_that_goes_as_its_preparation_finishes_is_told_as_lost(broker_url: str) -> None:
    """Or whoever took it for up at the end of the preparation would do so until the next loss."""

    async def drop_the_first_at_the_end(session: Session) -> None:
        if len(client.sessions) == 1:
            session.drop("a test's")

    async with running(broker_url, drop_the_first_at_the_end) as client:
        await client.connection.wait_connected(WAIT)
        assert len(client.sessions) == 2
        assert ["a test's" in str(error) for error in client.lost] == [True]


async def test_a_connection_that_went_while_its_preparation_finished_all_the_same_is_told_as_lost(
    broker_url: str,
) -> None:
    async def finish_late(session: Session) -> None:
        if len(client.sessions) == 1:
            session.drop("a test's")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async with running(broker_url, finish_late) as client:
        await client.connection.wait_connected(WAIT)
        assert len(client.sessions) == 2
        assert len(client.lost) == 1


@pytest.mark.parametrize("fault", [ChannelClosedError(406, "no"), RuntimeError("a fault of the program")])
async def test_a_preparation_that_raises_is_tried_again_on_a_new_connection(
    broker_url: str, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [fault, fault]

    async def fail_twice(_: Session) -> None:
        if faults:
            raise faults.pop()

    async with connected(broker_url, fail_twice) as client:
        assert len(client.sessions) == 3
        assert client.lost == []
        with pytest.raises(NotConnectedError):
            await client.sessions[0].channel()
    assert str(fault) in caplog.text


async def test_a_preparation_that_hangs_is_ended_and_tried_again(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "PREPARE_TIMEOUT", 0.05)

    async def hang_the_first_time(session: Session) -> None:
        if len(client.sessions) == 1:
            await asyncio.Event().wait()

    async with running(broker_url, hang_the_first_time) as client:
        await client.connection.wait_connected(WAIT)
        assert len(client.sessions) == 2


async def test_closing_while_a_reconnect_is_under_way_ends_at_once(broker_url: str, eventually: Eventually) -> None:
    async with Proxy(broker_url) as proxy:
        async with connected(proxy.url) as client:
            proxy.refuse()
            await eventually(lambda: client.connection.last_error is not None and len(client.lost) == 1)
        assert not client.connection.connected


async def test_closing_during_the_handshake_ends_at_once(broker_url: str, eventually: Eventually) -> None:
    async with Proxy(broker_url) as proxy:
        proxy.freeze()
        async with running(proxy.url):
            await eventually(lambda: proxy.accepted == 1)


async def test_closing_during_the_preparation_cancels_it(broker_url: str, eventually: Eventually) -> None:
    cancelled: list[bool] = []

    async def hang(_: Session) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    async with running(broker_url, hang) as client:
        await eventually(lambda: len(client.sessions) == 1)
    assert cancelled == [True]


async def test_closing_is_in_order_and_is_no_loss(broker_url: str) -> None:
    closed: list[ChannelClosedError] = []
    async with connected(broker_url) as client, connected(broker_url) as witness:
        channel = await client.session.channel(on_closed=closed.append)
        name = (await channel.declare_queue(EXCLUSIVE)).name
        other = await witness.session.channel()
        with pytest.raises(ChannelClosedError, match="405"):
            await other.declare_queue(Queue(name, "", "", {}), passive=True)
        await client.session.close("the test wants it")
        other = await witness.session.channel()
        # The broker answered the close, so the exclusive queue is gone, not only going.
        with pytest.raises(ChannelClosedError, match="404"):
            await other.declare_queue(Queue(name, "", "", {}), passive=True)
        assert [error.code for error in closed] == [0]
        assert "the test wants it" in str(closed[0])
        await client.connection.wait_connected(WAIT)
        assert len(client.lost) == 1
    assert len(client.lost) == 1
    assert witness.lost == []


async def test_a_frozen_broker_does_not_hold_up_a_close(broker_url: str) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url):
        proxy.freeze()


async def test_calls_that_wait_fail_when_the_connection_goes(broker_url: str) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        closed: list[ChannelClosedError] = []
        channel = await client.session.channel(on_closed=closed.append)
        proxy.freeze()
        calls: list[asyncio.Task[Any]] = [
            asyncio.create_task(channel.declare_queue(EXCLUSIVE)),
            asyncio.create_task(channel.consume("q", lambda _: None)),
            asyncio.create_task(client.session.channel()),
            asyncio.create_task(channel.close()),
        ]
        await asyncio.sleep(0)
        proxy.cut()
        for call in calls[:3]:
            with pytest.raises(NotConnectedError, match="lost"):
                await call
        await calls[3]
        channel.ack(1)


async def test_when_the_connection_goes_one_channels_callback_can_use_another_without_harm(
    broker_url: str, prefix: str, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        outcomes: list[Outcome] = []
        other: list[Channel] = []

        def use_the_other(_: ChannelClosedError) -> None:
            other[0].ack(1)
            other[0].publish("", prefix, b"x", type="t", on_outcome=outcomes.append)

        await client.session.channel(on_closed=use_the_other)
        other.append(await client.session.channel(confirms=True))
        proxy.cut()
        await eventually(lambda: outcomes == [Outcome.LOST])
    assert "callback failed" not in caplog.text


async def test_a_call_that_is_not_answered_gives_the_channel_up(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        closed: list[ChannelClosedError] = []
        channel = await client.session.channel(on_closed=closed.append)
        proxy.freeze()
        monkeypatch.setattr(raw_channel, "RPC_TIMEOUT", 0.05)
        with pytest.raises(ChannelClosedError, match="did not answer"):
            await channel.declare_queue(EXCLUSIVE)
        assert [error.code for error in closed] == [0]
        monkeypatch.undo()
        proxy.thaw()
        # The connection goes on, and late answers confuse no later channel.
        again = await client.session.channel()
        assert (await again.declare_queue(EXCLUSIVE)).name
        assert client.lost == []


async def test_a_broker_that_falls_silent_is_given_up_by_the_heartbeat(broker_url: str, eventually: Eventually) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url, heartbeat=1) as client:
        proxy.freeze()
        await eventually(lambda: len(client.lost) == 1)
        assert "no sign of life" in str(client.lost[0])
        proxy.thaw()
        await client.connection.wait_connected(WAIT)


async def test_heartbeats_alone_keep_a_connection(broker_url: str, eventually: Eventually) -> None:
    """Whoever replaces pika's reader must go on counting the bytes that it looks at, every 6 s with this heartbeat."""
    async with connected(broker_url, heartbeat=1) as client:
        link: Any = client.session._link
        checker = link._heartbeat_checker
        await eventually(lambda: checker._heartbeat_frames_received >= 14)
        assert client.lost == []


async def test_bytes_that_are_no_amqp_end_the_connection_and_the_next_one_works(
    broker_url: str, eventually: Eventually
) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        for garbage in (b"\x01\x00\x00\xff\xff\xff\xff\x00", b"\x01\x00\x00\x00\x00\x00\x01a\x00", b"\x09" * 64):
            losses = len(client.lost)
            proxy.say_to_client(garbage)
            await eventually(partial(client.has_lost, losses + 1))
            await client.connection.wait_connected(WAIT)


async def test_a_callback_that_raises_does_not_stop_the_reconnecting(broker_url: str, eventually: Eventually) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a fault of the program")

    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        client.connection._on_lost = fail
        await client.session.channel(on_closed=fail)
        sessions = len(client.sessions)
        proxy.cut()
        await eventually(lambda: len(client.sessions) > sessions)
        await client.connection.wait_connected(WAIT)


async def test_the_same_failure_is_logged_once_and_pika_says_nothing(
    broker_url: str, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Proxy(broker_url) as proxy:
        proxy.refuse()
        async with running(proxy.url) as client:
            # 8 failures take less than a second on average.
            tries = 0
            last: BrokerError | None = None

            def several() -> bool:
                nonlocal tries, last
                if client.connection.last_error is not last:
                    last, tries = client.connection.last_error, tries + 1
                return tries >= 4

            await eventually(several)
    lines = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert [record.name for record in lines] == ["broker_wire.amqp.connection"]
    assert "nothing listens" in lines[0].getMessage()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops_carry_it(
    broker_url: str, prefix: str, eventually: Eventually, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def exchange() -> None:
        async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
            for round_number in (1, 2):
                channel = await client.session.channel(confirms=True)
                name = (await channel.declare_queue(EXCLUSIVE)).name
                arrived: asyncio.Queue[Delivery] = asyncio.Queue()
                await channel.consume(name, arrived.put_nowait)
                body = bytes(5_000_000)
                channel.publish("", name, body, type=prefix)
                await channel.writable(WAIT)
                assert (await asyncio.wait_for(arrived.get(), WAIT)).body == body
                proxy.cut()
                await eventually(partial(client.has_lost, round_number))
                await client.connection.wait_connected(WAIT)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(exchange())


async def test_one_client_is_not_disturbed_by_the_fate_of_another(broker_url: str) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as one, connected(broker_url) as other:
        proxy.cut()
        await one.connection.wait_connected(WAIT)
        assert other.lost == []


def test_a_client_is_made_without_a_loop(broker_url: str) -> None:
    async def never(_: Session) -> None: ...

    assert not Client(parse_broker_url(broker_url), never).connection.connected
