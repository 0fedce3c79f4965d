"""Each way in which a connection cannot be made has its own sentence: what happened, where, what to check."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from broker_wire.amqp import TLSFiles, link
from broker_wire.errors import BrokerError, BrokerRefusedError, BrokerUnreachableError
from broker_wire.topology import Queue
from tests.integration.amqp_certificates import Certificates
from tests.integration.amqp_harness import WAIT, Proxy, connected, running
from tests.waiting import Eventually

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def listener(answer: Answer) -> AsyncIterator[str]:
    """Something on a port that is no broker; yields the port's address as one of a broker."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"amqp://guest:guest@localhost:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


async def failure(url: str, eventually: Eventually, tls: TLSFiles | None = None) -> BrokerError:
    """The first failure of a connection to this address."""
    async with running(url, tls=tls) as client:
        await eventually(lambda: client.connection.last_error is not None)
        assert client.sessions == []
        error = client.connection.last_error
        assert error is not None
        with pytest.raises(type(error)):
            await client.connection.wait_connected(0)
        return error


def changed(url: str, *, userinfo: str | None = None, path: str | None = None) -> str:
    parts = urlsplit(url)
    old_userinfo, _, host = parts.netloc.rpartition("@")
    return f"amqp://{userinfo or old_userinfo}@{host}{parts.path if path is None else path}"


async def test_nothing_listens(eventually: Eventually, free_port: Callable[[], int]) -> None:
    port = free_port()
    error = await failure(f"amqp://user:sesame@localhost:{port}/v", eventually)
    assert isinstance(error, BrokerUnreachableError)
    assert f"nothing listens at amqp://user@localhost:{port}/v" in str(error)
    assert "sesame" not in str(error)


async def test_the_name_does_not_resolve(eventually: Eventually) -> None:
    error = await failure("amqp://no-such-host.invalid", eventually)
    assert isinstance(error, BrokerUnreachableError)
    assert "'no-such-host.invalid'" in str(error)
    assert "does not resolve" in str(error)


async def test_the_password_is_wrong(broker_url: str, eventually: Eventually) -> None:
    error = await failure(changed(broker_url, userinfo="guest:sesame"), eventually)
    assert isinstance(error, BrokerRefusedError)
    assert "wrong user name or password" in str(error)
    assert "403 ACCESS_REFUSED" in str(error)
    assert "sesame" not in str(error)


async def test_there_is_no_such_virtual_host(broker_url: str, prefix: str, eventually: Eventually) -> None:
    error = await failure(changed(broker_url, path=f"/{prefix}"), eventually)
    assert isinstance(error, BrokerRefusedError)
    assert f"there is no virtual host {prefix!r}" in str(error)
    assert "add_vhost" in str(error)


async def test_a_listener_that_never_answers_is_given_up(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HANDSHAKE_TIMEOUT", 0.1)

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listener(say_nothing) as url:
        error = await failure(url, eventually)
    assert isinstance(error, BrokerUnreachableError)
    assert "says nothing within 0.1 s" in str(error)


async def test_a_tls_handshake_that_is_never_answered_is_given_up(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HANDSHAKE_TIMEOUT", 0.1)

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listener(say_nothing) as url:
        error = await failure(url.replace("amqp:", "amqps:"), eventually)
    assert isinstance(error, BrokerUnreachableError)
    assert "does not answer" in str(error)


async def test_a_broker_that_freezes_after_its_greeting_is_given_up(
    broker_url: str, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HANDSHAKE_TIMEOUT", 0.5)

    async def greet_and_freeze(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker = urlsplit(broker_url)
        upstream_reader, upstream = await asyncio.open_connection(broker.hostname, broker.port)
        try:
            upstream.write(await reader.read(8))
            writer.write(await upstream_reader.read(65536))
            await reader.read()
        finally:
            upstream.transport.abort()

    async with listener(greet_and_freeze) as url:
        error = await failure(url, eventually)
    assert isinstance(error, BrokerUnreachableError)
    assert "while authenticating" in str(error)


async def test_a_listener_that_hangs_up_is_told_from_a_broker(eventually: Eventually) -> None:
    async def hang_up(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(8)

    async with listener(hang_up) as url:
        error = await failure(url, eventually)
    assert isinstance(error, BrokerUnreachableError)
    assert "hung up without a word" in str(error)


@pytest.mark.parametrize(
    ("first_bytes", "sentence"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no AMQP broker"),
        (b"AMQP\x03\x01\x00\x00", "not 0-9-1"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "use amqps://"),
    ],
)
async def test_what_answers_something_else_is_named(first_bytes: bytes, sentence: str, eventually: Eventually) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(first_bytes)
        await reader.read()

    async with listener(answer) as url:
        error = await failure(url, eventually)
    assert isinstance(error, BrokerUnreachableError)
    assert sentence in str(error)


async def test_tls_to_a_plain_port(broker_url: str, eventually: Eventually) -> None:
    error = await failure(broker_url.replace("amqp:", "amqps:"), eventually)
    assert isinstance(error, BrokerUnreachableError)
    assert "does not speak TLS at this port" in str(error)


async def test_plain_to_a_tls_port(broker_url: str, certificates: Certificates, eventually: Eventually) -> None:
    async with Proxy(broker_url, certificates.server(certificates.localhost)) as proxy:
        error = await failure(proxy.url.replace("amqps:", "amqp:"), eventually)
    assert isinstance(error, BrokerUnreachableError)
    assert "amqps://" in str(error)


async def test_a_trusted_certificate_connects(broker_url: str, certificates: Certificates) -> None:
    async with (
        Proxy(broker_url, certificates.server(certificates.localhost)) as proxy,
        connected(proxy.url, tls=TLSFiles(ca=certificates.ca)) as client,
    ):
        channel = await client.session.channel(confirms=True)
        name = (await channel.declare_queue(Queue("", "", "", {}, exclusive=True))).name
        arrived: asyncio.Queue[bytes] = asyncio.Queue()
        await channel.consume(name, lambda delivery: arrived.put_nowait(delivery.body))
        body = bytes(range(256)) * 20_000
        await channel.publish_confirmed("", name, body, type="t", timeout=WAIT)
        assert await asyncio.wait_for(arrived.get(), WAIT) == body


async def test_a_certificate_of_an_unknown_authority(
    broker_url: str, certificates: Certificates, eventually: Eventually
) -> None:
    async with Proxy(broker_url, certificates.server(certificates.localhost)) as proxy:
        error = await failure(proxy.url, eventually)
    assert isinstance(error, BrokerUnreachableError)
    assert "is not trusted" in str(error)


async def test_a_certificate_of_another_name(
    broker_url: str, certificates: Certificates, eventually: Eventually
) -> None:
    async with Proxy(broker_url, certificates.server(certificates.elsewhere)) as proxy:
        error = await failure(proxy.url, eventually, TLSFiles(ca=certificates.ca))
    assert isinstance(error, BrokerUnreachableError)
    assert "is for another name" in str(error)


async def test_a_client_certificate_is_shown_when_asked_for(broker_url: str, certificates: Certificates) -> None:
    context = certificates.server(certificates.localhost, ask_client=True)
    certificate, key = certificates.client
    async with (
        Proxy(broker_url, context) as proxy,
        connected(proxy.url, tls=TLSFiles(certificates.ca, certificate, key)) as client,
    ):
        assert client.connection.connected


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_missing_client_certificate(
    certificates: Certificates, eventually: Eventually, version: ssl.TLSVersion
) -> None:
    context = certificates.server(certificates.localhost, ask_client=True)
    context.minimum_version = context.maximum_version = version

    def refuse(server: socket.socket) -> None:
        # asyncio's TLS server drops the connection without the alert that a broker sends.
        with server.accept()[0] as plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True):
            pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, server))
        url = f"amqps://guest:guest@localhost:{server.getsockname()[1]}/"
        async with running(url, tls=TLSFiles(ca=certificates.ca)) as client:
            await refusing
            await eventually(lambda: client.connection.last_error is not None)
            error = client.connection.last_error
    assert isinstance(error, BrokerUnreachableError)
    assert "asks for a client certificate" in str(error)


async def test_a_hangup_after_the_tls_handshake_makes_one_think_of_the_client_certificate(
    broker_url: str, certificates: Certificates, eventually: Eventually
) -> None:
    async with Proxy(broker_url, certificates.server(certificates.localhost, ask_client=True)) as proxy:
        error = await failure(proxy.url, eventually, TLSFiles(ca=certificates.ca))
    assert isinstance(error, BrokerUnreachableError)
    assert "hung up" in str(error)
    assert "client certificate" in str(error)
