"""HTTP workers behind https://: called by address, checked by name."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker_controller.address_guard import AddressGuard
from tests.integration.amqp_certificates import Certificates
from workers_shim.engines.http.old_worker import OldWorker, UnreachableError


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def server(certificates: Certificates, certificate: tuple[Path, Path]) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificates.server(certificate))
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def call(certificates: Certificates, port: int) -> object:
    async def resolve(_: str) -> list[str]:
        return ["127.0.0.1"]

    address = await AddressGuard(resolve=resolve).admit(f"https://localhost:{port}")
    return await OldWorker(address, ssl.create_default_context(cafile=certificates.ca)).ask("/worker_get_status", {})


async def test_a_certificate_is_checked_against_the_name_although_the_address_is_called(
    certificates: Certificates,
) -> None:
    async with server(certificates, certificates.localhost) as port:
        assert await call(certificates, port) == {}


async def test_a_certificate_of_another_name_is_refused(certificates: Certificates) -> None:
    async with server(certificates, certificates.elsewhere) as port:
        with pytest.raises(UnreachableError, match="certificate"):
            await call(certificates, port)
