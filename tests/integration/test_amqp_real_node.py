"""What only a RabbitMQ node of one's own can show: alarms, users, TLS, a restart."""

import asyncio
from collections.abc import Iterator

import pytest

from broker_controller.amqp_probe import free_port
from broker_controller.private_node import PrivateNode
from broker_wire.amqp import Channel, Outcome, Session, TLSFiles
from broker_wire.errors import BrokerRefusedError, BrokerUnreachableError
from broker_wire.topology import Queue
from tests.integration.amqp_certificates import Certificates
from tests.integration.amqp_harness import WAIT, connected, running
from tests.waiting import Eventually

EXCLUSIVE = Queue("", "", "", {}, exclusive=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def node(certificates: Certificates, tls_port: int) -> Iterator[PrivateNode]:
    certificate, key = certificates.localhost
    conf = f"""
listeners.ssl.1 = 127.0.0.1:{tls_port}
ssl_options.cacertfile = {certificates.ca}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""
    with PrivateNode(extra_conf=conf) as node:
        yield node


async def test_an_alarm_holds_publishers_back_and_nothing_is_lost(node: PrivateNode, eventually: Eventually) -> None:
    async with connected(node.url) as publisher, connected(node.url) as consumer:
        arrived: list[bytes] = []
        reading = await consumer.session.channel()
        name = (await reading.declare_queue(EXCLUSIVE)).name
        await reading.consume(name, lambda delivery: arrived.append(delivery.body), no_ack=True)
        channel = await publisher.session.channel(confirms=True)
        outcomes: list[Outcome] = []
        await asyncio.to_thread(node.rabbitmqctl, "set_vm_memory_high_watermark", "absolute", "1")
        try:
            channel.publish("", name, b"held", type="t", on_outcome=outcomes.append)
            await eventually(lambda: publisher.blocked == [True])
            assert channel.congested
            with pytest.raises(TimeoutError):
                await channel.writable(0.05)
            # Whoever only consumes goes on.
            assert not consumer.connection.blocked
            assert (await reading.declare_queue(Queue(name, "", "", {}, exclusive=True), passive=True)).consumers == 1
        finally:
            await asyncio.to_thread(node.rabbitmqctl, "set_vm_memory_high_watermark", "0.4")
        await channel.writable(WAIT)
        await eventually(lambda: outcomes == [Outcome.CONFIRMED] and arrived == [b"held"])
        assert publisher.blocked == [True, False]


async def test_a_user_without_permission_for_the_virtual_host_is_told_so(
    node: PrivateNode, eventually: Eventually
) -> None:
    await asyncio.to_thread(node.rabbitmqctl, "add_user", "stranger", "sesame")
    url = node.url.replace("guest:guest", "stranger:sesame")
    async with running(url) as client:
        await eventually(lambda: client.connection.last_error is not None)
        error = client.connection.last_error
    assert isinstance(error, BrokerRefusedError)
    assert "user 'stranger' has no permission for virtual host '/'" in str(error)


async def test_rabbitmq_with_tls_and_client_certificates(
    node: PrivateNode, certificates: Certificates, tls_port: int, eventually: Eventually
) -> None:
    url = f"amqps://guest:guest@localhost:{tls_port}/"
    async with connected(url, tls=TLSFiles(certificates.ca, *certificates.client)) as client:
        channel = await client.session.channel(confirms=True)
        name = (await channel.declare_queue(EXCLUSIVE)).name
        await channel.publish_confirmed("", name, bytes(1_000_000), type="t", timeout=WAIT, mandatory=True)
    async with running(url, tls=TLSFiles(ca=certificates.ca)) as client:
        await eventually(lambda: client.connection.last_error is not None)
        assert "asks for a client certificate" in str(client.connection.last_error)
    async with running(f"amqp://guest:guest@localhost:{tls_port}/") as client:
        await eventually(lambda: client.connection.last_error is not None)
        assert isinstance(client.connection.last_error, BrokerUnreachableError)
        assert "amqps://" in str(client.connection.last_error)


async def test_a_restart_of_the_node_is_survived(node: PrivateNode, eventually: Eventually) -> None:
    channels: list[Channel] = []

    async def prepare(session: Session) -> None:
        channel = await session.channel(confirms=True)
        await channel.declare_queue(Queue("restart", "", "", {"x-expires": 600_000}))
        channels.append(channel)

    async with connected(node.url, prepare) as client:
        await channels[-1].publish_confirmed("", "restart", b"x", type="t", timeout=WAIT, persistent=True)
        await asyncio.to_thread(node.stop)
        await eventually(lambda: len(client.lost) == 1)
        assert "the broker closed it: 320 CONNECTION_FORCED" in str(client.lost[0])
        await asyncio.to_thread(node.start)
        await client.connection.wait_connected(60)
        state = await channels[-1].declare_queue(Queue("restart", "", "", {}), passive=True)
        assert state.ready == 1
