"""The load generator against servers that answer well, wrongly, late and not at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from benchmarks.answers import EMBEDDINGS
from benchmarks.canned import canned_server, chunked_answer
from benchmarks.load import PROMPT, Load, run_round
from workers_shim.engines.echo_embeddings import vector_of

TWO_BY_THREE = Load(model="echo", streams=2, tokens=20, requests=3, timeout=10)


@asynccontextmanager
async def server_of(pieces: list[bytes]) -> AsyncIterator[str]:
    """Answers each request with these pieces, a turn of the loop apart, and closes after an empty one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if pieces[-1] == b"":
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"


async def test_every_right_answer_is_counted() -> None:
    async with canned_server(chunked_answer(PROMPT, 20)) as url:
        outcome = await run_round(url, TWO_BY_THREE)
    assert (outcome.answers, outcome.errors) == (6, {})
    assert outcome.tokens_per_second > 0
    assert 0 < outcome.ttft_p50 <= outcome.ttft_p99


async def test_an_answer_that_arrives_byte_by_byte_is_read_whole() -> None:
    answer = chunked_answer(PROMPT, 2)
    async with server_of([answer[i : i + 1] for i in range(len(answer))]) as url:
        outcome = await run_round(url, Load(model="echo", streams=1, tokens=2, requests=2, timeout=60))
    assert (outcome.answers, outcome.errors) == (2, {})


async def test_a_wrong_answer_is_an_error_and_adds_no_tokens() -> None:
    async with canned_server(chunked_answer("other words", 20)) as url:
        outcome = await run_round(url, TWO_BY_THREE)
    assert outcome.tokens_per_second == outcome.answers == 0
    assert [text[:10] for text in outcome.errors] == ["wrong text"]
    assert sum(outcome.errors.values()) == 6


async def test_an_answer_that_is_no_stream_ends_with_its_length() -> None:
    vector = msgspec.json.encode({"data": [{"embedding": vector_of(PROMPT, 64)}]})
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(vector)}\r\n\r\n".encode()
    async with server_of([head, vector[:500], vector[500:]]) as url:
        outcome = await run_round(url, msgspec.structs.replace(TWO_BY_THREE, tokens=1), EMBEDDINGS)
    assert (outcome.answers, outcome.errors) == (6, {})


async def test_an_http_error_ends_its_request_and_the_next_one_is_asked() -> None:
    async with server_of([b"HTTP/1.1 503 Service Unavailable\r\n", b"Content-Length: 4\r\n\r\nbu", b"sy"]) as url:
        outcome = await run_round(url, TWO_BY_THREE)
    assert outcome.errors == {"HTTP 503: busy": 6}


async def test_a_connection_that_closes_early_is_an_error_of_all_its_requests() -> None:
    async with server_of([chunked_answer(PROMPT, 20)[:300], b""]) as url:
        outcome = await run_round(url, TWO_BY_THREE)
    assert outcome.errors == {
        "the connection was closed before the answer was whole": 2,
        "not asked: the connection before it ended early": 4,
    }


async def test_an_answer_that_never_comes_ends_the_round_at_its_timeout() -> None:
    async with server_of([b"HTTP/1.1 200 OK\r\n"]) as url:
        outcome = await run_round(url, Load(model="echo", streams=2, tokens=20, timeout=0.1))
    assert outcome.errors == {"no whole answer in time": 2}
