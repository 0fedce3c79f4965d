"""The mock engine answers exactly what is asked of the product, in each protocol: all are measured by one rule."""

import httpx
import pytest

from benchmarks.answers import EMBEDDINGS, LLAVA, OPENAI, Protocol, fault
from benchmarks.load import Load, request_body
from benchmarks.mock_engine import MockEngine

PROMPT = "one two three"


@pytest.mark.parametrize("protocol", [OPENAI, LLAVA, EMBEDDINGS])
@pytest.mark.parametrize("model", ["echo", "paced"])
async def test_it_answers_as_the_echo_engine_does(protocol: Protocol, model: str) -> None:
    transport = httpx.ASGITransport(MockEngine({"echo": 0.0, "paced": 1000.0}).application())
    async with httpx.AsyncClient(transport=transport, base_url="http://mock") as client:
        body = request_body(Load(model=model, streams=1, tokens=7, prompt=PROMPT), protocol)
        response = await client.post(protocol.path, json=body)
        answer = protocol.read(b"HTTP/1.1 200 OK\r\n\r\n" + response.content, PROMPT)
        assert fault(answer, protocol.expected(PROMPT, 7), 7) is None
