"""The reference: an engine that serves /v1/chat/completions from its own uvicorn, with nothing in between.

Started by the suite as a process of its own. It answers as the echo engine does, and costs as little as Starlette lets
it: the events are formatted by hand, and there is one write for each token, as engines' servers do.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

BACKLOG = 2048  # uvicorn's own default, named since 500 streams connect at once


async def _events(model: str, words: list[str], tokens: int, pause: float) -> AsyncIterator[bytes]:
    identity = json.dumps(
        {
            "id": f"chatcmpl-{time.monotonic_ns():x}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
    )[:-1]
    before = f'data: {identity}, "choices": [{{"index": 0, "delta": {{'
    yield f'{before}"role": "assistant", "content": ""}}, "finish_reason": null}}]}}\n\n'.encode()
    start = time.monotonic()
    for index in range(tokens):
        # Without a pause the engine still hands over token by token: the loop's turn makes each a write of its own.
        await asyncio.sleep(max(0.0, start + index * pause - time.monotonic()) if pause else 0)
        word = words[index % len(words)]
        content = json.dumps(f" {word}" if index else word)
        yield f'{before}"content": {content}}}, "finish_reason": null}}]}}\n\n'.encode()
    yield f'{before}}}, "finish_reason": "length"}}]}}\n\n'.encode()
    yield b"data: [DONE]\n\n"


def application(tokens_per_second: dict[str, float]) -> Starlette:
    """Serves the models named; 0 tokens a second means as fast as it can."""

    async def chat_completions(request: Request) -> StreamingResponse:
        body = await request.json()
        words = body["messages"][-1]["content"].split()
        rate = tokens_per_second[body["model"]]
        events = _events(body["model"], words, body["max_tokens"], 1 / rate if rate else 0.0)
        return StreamingResponse(events, media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat_completions, methods=["POST"])])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.no_proxy")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=TOKENS_PER_SECOND")
    arguments = parser.parse_args()
    rates = {name: float(rate) for name, _, rate in (model.partition("=") for model in arguments.model)}
    uvicorn.run(
        application(rates),
        host="127.0.0.1",
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        backlog=BACKLOG,
    )


if __name__ == "__main__":
    main()
