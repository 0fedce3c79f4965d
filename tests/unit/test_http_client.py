"""The HTTP client against a server that answers oddly: connections kept, closed, and lost."""

import asyncio
from typing import Any

import pytest

from tests.integration.amqp_certificates import Certificates
from tests.unit import odd_http
from tests.unit.odd_http import END, EVENTS, Asked, chunk, odd_server, whole
from tests.waiting import eventually
from workers_shim.engines import http_client
from workers_shim.engines.http_client import (
    BrokenOffError,
    HttpClient,
    HttpError,
    UnreachableError,
    parse_url,
)

NOBODY = "http://127.0.0.1:1/v1"


async def ask(client: HttpClient, path: str = "/x", body: bytes | None = None) -> bytes:
    async with client.request("POST", path, body) as response:
        return await response.read(1000)


def answers(data: bytes) -> odd_http.Answer:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


async def test_a_request_says_what_a_server_needs() -> None:
    async with odd_server(answers(whole(b"ok"))) as server:
        client = HttpClient(parse_url(server.url), secret="s3cret")
        assert await ask(client, "/v1/x", b'{"a": 1}') == b"ok"
        client.close()

    [asked] = server.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/v1/x", b'{"a": 1}')
    assert asked.fields == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "workers-shim",
        "accept-encoding": "identity",
        "authorization": "Bearer s3cret",
        "content-type": "application/json",
        "content-length": "8",
    }


async def test_a_connection_is_used_again_and_no_more_are_kept_than_may_be() -> None:
    async with odd_server(answers(whole(b"ok"))) as server:
        client = HttpClient(parse_url(server.url), keep=1)
        await ask(client)
        await asyncio.gather(ask(client), ask(client))
        await ask(client)
        client.close()

    assert server.connections == 2
    assert server.asked[0].connection == 1


async def test_a_connection_whose_answer_was_not_read_to_its_end_is_closed_at_once() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS + chunk(b"first"))
        await odd_http.never()

    async with odd_server(answer) as server:
        client = HttpClient(parse_url(server.url))
        async with client.request("POST", "/x") as response:
            assert await response.read_some() == b"first"
        await eventually(lambda: server.left == 1)
        client.close()


async def test_a_cancel_closes_the_connection_before_there_is_an_answer() -> None:
    async with odd_server(odd_http.never) as server:
        client = HttpClient(parse_url(server.url))
        task = asyncio.create_task(ask(client))
        await eventually(lambda: server.asked)
        task.cancel()
        await eventually(lambda: server.left == 1)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_kept_connection_that_the_server_has_closed_meanwhile_is_replaced_once() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(server.asked) == 2:
            # As a server that closes an idle connection just when the request comes.
            writer.transport.abort()
            return
        writer.write(whole(b"ok"))

    async with odd_server(answer) as server:
        client = HttpClient(parse_url(server.url))
        assert await ask(client) == b"ok"
        assert await ask(client) == b"ok"
        client.close()

    assert [asked.connection for asked in server.asked] == [1, 1, 2]


async def test_what_breaks_off_after_its_first_byte_or_on_a_fresh_connection_is_not_sent_again() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(server.asked) == 2:
            writer.write(b"HTTP/1.1 2")
            await writer.drain()
            writer.close()
            return
        writer.write(whole(b"ok"))

    async with odd_server(answer) as server:
        client = HttpClient(parse_url(server.url))
        await ask(client)
        with pytest.raises(BrokenOffError):
            await ask(client)
        server.answer = answers(b"")
        client.close()
        client = HttpClient(parse_url(server.url))

        async def hang_up(asked: Asked, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        server.answer = hang_up
        with pytest.raises(BrokenOffError):
            await ask(client)

    assert len(server.asked) == 3


async def test_a_server_that_died_of_a_request_on_a_kept_connection_has_heard_of_it() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if len(server.asked) == 2:
            await server.stop()
        writer.write(whole(b"ok"))

    async with odd_server(answer) as server:
        client = HttpClient(parse_url(server.url))
        await ask(client)
        with pytest.raises(BrokenOffError):
            await ask(client)


async def test_an_idle_connection_is_not_trusted_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async with odd_server(answers(whole(b"ok"))) as server:
        client = HttpClient(parse_url(server.url))
        await ask(client)
        monkeypatch.setattr(http_client, "IDLE_TIME", 0.0)
        await ask(client)
        client.close()

    assert [asked.connection for asked in server.asked] == [1, 2]


async def test_what_a_server_says_unasked_is_no_answer() -> None:
    timed_out = whole(b"too slow", "408 Request Timeout")
    async with odd_server(answers(whole(b"ok") + timed_out)) as server:
        client = HttpClient(parse_url(server.url))
        assert await ask(client) == b"ok"
        # What came with the answer was there before the second was asked.
        assert await ask(client) == b"ok"
        client.close()

    assert [asked.connection for asked in server.asked] == [1, 2]


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", EVENTS + chunk(b"he"), b"nonsense\n\n"]
)
async def test_an_answer_that_ends_early_has_broken_off(data: bytes) -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    async with odd_server(answer) as server:
        with pytest.raises(BrokenOffError):
            await ask(HttpClient(parse_url(server.url)))


async def test_a_body_may_come_byte_by_byte_and_end_with_the_connection() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello":
            writer.write(bytes([byte]))
            await writer.drain()
        writer.close()

    async with odd_server(answer) as server:
        assert await ask(HttpClient(parse_url(server.url))) == b"hello"


async def test_a_body_that_is_too_large_is_not_kept() -> None:
    async with odd_server(answers(EVENTS + chunk(b"x" * 1001) + END)) as server:
        with pytest.raises(HttpError, match="more than 1000 bytes"):
            await ask(HttpClient(parse_url(server.url)))


async def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(UnreachableError, match="cannot be reached"):
        await ask(HttpClient(parse_url(NOBODY)))


async def test_no_connection_within_its_time_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(http_client, "CONNECT_TIMEOUT", 0.01)
    monkeypatch.setattr(asyncio, "open_connection", hang)
    with pytest.raises(UnreachableError, match="no connection within"):
        await ask(HttpClient(parse_url(NOBODY)))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def test_https_is_spoken_to_whom_the_systems_authorities_vouch_for(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    async with odd_server(answers(whole(b"ok")), certificates.server(certificates.localhost)) as server:
        client = HttpClient(parse_url(f"https://localhost:{server.port}/v1"))
        assert await ask(client) == b"ok"
        assert await ask(client) == b"ok"
        client.close()

    assert [asked.connection for asked in server.asked] == [1, 1]


async def test_whoever_nobody_vouches_for_is_unreachable(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with odd_server(odd_http.never, certificates.server(certificates.elsewhere)) as server:
        url = f"https://localhost:{server.port}/v1"
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            await ask(HttpClient(parse_url(url)))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
        with pytest.raises(UnreachableError, match="Hostname mismatch"):
            await ask(HttpClient(parse_url(url)))

    assert not server.asked


async def test_a_question_has_its_time() -> None:
    async with odd_server(odd_http.never) as server:
        with pytest.raises(TimeoutError):
            await HttpClient(parse_url(server.url)).ask("GET", "/x", timeout=0.01, limit=1)


@pytest.mark.parametrize(
    ("url", "netloc", "path"),
    [
        ("http://localhost:8000/v1/", "localhost:8000", "/v1"),
        ("https://gpu.example/openai/v1", "gpu.example", "/openai/v1"),
        ("http://[::1]:8000", "[::1]:8000", ""),
    ],
)
def test_a_url_is_read(url: str, netloc: str, path: str) -> None:
    address = parse_url(url)

    assert (address.netloc, address.path) == (netloc, path)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/v1", "ftp://x/", "http://", "http://h:99999/", "http://h/a b", "http://h/?q=1"],
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL of the server"):
        parse_url(url)


def test_a_password_in_a_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="user or password") as refusal:
        parse_url("http://user:s3cret@h/v1")
    assert "s3cret" not in str(refusal.value)
