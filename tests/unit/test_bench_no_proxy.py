"""The reference answers exactly what is asked of the product, so that both are measured by the same rule."""

import httpx

from benchmarks.answers import echo_text, fault, read_answer
from benchmarks.no_proxy import application

PROMPT = "one two three"


async def test_the_reference_answers_as_the_echo_engine_does() -> None:
    transport = httpx.ASGITransport(application({"echo": 0.0, "paced": 1000.0}))
    async with httpx.AsyncClient(transport=transport, base_url="http://reference") as client:
        for model in ("echo", "paced"):
            body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 7, "stream": True}
            response = await client.post("/v1/chat/completions", json=body)
            answer = read_answer(b"HTTP/1.1 200 OK\r\n\r\n" + response.content)
            assert fault(answer, echo_text(PROMPT, 7), 7) is None
