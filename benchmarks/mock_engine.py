"""An engine with a server of its own, as vLLM has one, but without a model: it repeats the prompt's words.

Asked itself it is the reference, *no proxy*. The same server stands behind every gateway that is measured, so it speaks
OpenAI's protocol and that of LLaVA's and FastChat's workers. It costs as little as Starlette lets it: the events are
formatted by hand, and there is one write for each token, as engines' servers do.
"""

import argparse
import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route

from workers_shim.engines.echo_embeddings import DEFAULT_DIMENSIONS, vector_of

BACKLOG = 2048  # uvicorn's own default, named since 1,000 streams connect at once
CONTEXT_LENGTH = 1_000_000  # tokens; FastChat's server wants to know
REGISTER_TIMEOUT = 10.0  # seconds
_NO_TEMPLATE = {
    "name": "none",
    "system_template": "{system_message}",
    "system_message": "",
    "roles": ["", ""],
    "messages": [],
    "offset": 0,
    "sep_style": 4,  # NO_COLON_SINGLE: a chat's prompt is its one message
    "sep": "",
    "sep2": None,
    "stop_str": None,
    "stop_token_ids": None,
}


async def _paced(prompt: str, tokens: int, rate: float) -> AsyncIterator[str]:
    """The answer's tokens, `rate` a second, 0 for as fast as they are taken."""
    words = prompt.split()
    start = time.monotonic()
    for index in range(tokens):
        # Without a pace the engine still hands over token by token: the loop's turn makes each a write of its own.
        await asyncio.sleep(max(0.0, start + index / rate - time.monotonic()) if rate else 0)
        word = words[index % len(words)]
        yield f" {word}" if index else word


async def _events(model: str, tokens: AsyncIterator[str]) -> AsyncIterator[bytes]:
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
    async for token in tokens:
        yield f'{before}"content": {json.dumps(token)}}}, "finish_reason": null}}]}}\n\n'.encode()
    yield f'{before}}}, "finish_reason": "length"}}]}}\n\n'.encode()
    yield b"data: [DONE]\n\n"


async def _objects(before: str, tokens: AsyncIterator[str], prompt_tokens: int) -> AsyncIterator[bytes]:
    """LLaVA's cumulative objects. `before`: what each begins with."""
    text, count, usage = before, 0, {}
    async for token in tokens:
        text += token
        count += 1
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": count, "total_tokens": prompt_tokens + count}
        yield json.dumps({"text": text, "error_code": 0, "usage": usage, "finish_reason": None}).encode() + b"\0"
    yield json.dumps({"text": text, "error_code": 0, "usage": usage, "finish_reason": "length"}).encode() + b"\0"


class MockEngine:
    """Serves the models named, each at its pace: tokens a second and stream, 0 for as fast as it can."""

    def __init__(self, tokens_per_second: dict[str, float]) -> None:
        self._rates = tokens_per_second

    def application(self) -> Starlette:
        """All paths; each model has them under /only/MODEL, too, for who takes a server to have one."""
        posts = {
            "/v1/chat/completions": self.chat_completions,
            "/v1/embeddings": self.embeddings,
            "/worker_generate_stream": self.generate_stream,
            "/worker_get_status": self.status,
            "/worker_get_conv_template": self.template,
            "/model_details": self.details,
            "/count_token": self.count,
        }
        gets = {"/v1/models": self.models, "/health": self.health}
        routes = [Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()]
        routes += [Route(path, endpoint) for path, endpoint in gets.items()]
        return Starlette(routes=[*routes, Mount("/only/{only}", routes=routes)])

    async def chat_completions(self, request: Request) -> StreamingResponse:
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        tokens = _paced(prompt, body["max_tokens"], self._rates[body["model"]])
        return StreamingResponse(_events(body["model"], tokens), media_type="text/event-stream")

    async def embeddings(self, request: Request) -> JSONResponse:
        body = await request.json()
        text = body["input"] if isinstance(body["input"], str) else body["input"][0]
        data = [{"object": "embedding", "index": 0, "embedding": vector_of(text, DEFAULT_DIMENSIONS)}]
        usage = {"prompt_tokens": len(text.split()), "total_tokens": len(text.split())}
        return JSONResponse({"object": "list", "data": data, "model": body["model"], "usage": usage})

    async def generate_stream(self, request: Request) -> StreamingResponse:
        body = await request.json()
        prompt = body["prompt"]
        tokens = _paced(prompt, body["max_new_tokens"], self._rates[body["model"]])
        before = prompt if body.get("echo", True) else ""
        return StreamingResponse(_objects(before, tokens, len(prompt.split())))

    async def models(self, request: Request) -> JSONResponse:
        names = [request.path_params["only"]] if "only" in request.path_params else list(self._rates)
        cards = [{"id": name, "object": "model", "created": 0, "owned_by": "benchmark"} for name in names]
        return JSONResponse({"object": "list", "data": cards})

    async def health(self, _request: Request) -> JSONResponse:
        return JSONResponse({})

    async def status(self, _request: Request) -> JSONResponse:
        return JSONResponse({"model_names": list(self._rates), "speed": 1, "queue_length": 0})

    async def template(self, _request: Request) -> JSONResponse:
        return JSONResponse({"conv": _NO_TEMPLATE})

    async def details(self, _request: Request) -> JSONResponse:
        return JSONResponse({"context_length": CONTEXT_LENGTH})

    async def count(self, request: Request) -> JSONResponse:
        return JSONResponse({"count": len((await request.json())["prompt"].split()), "error_code": 0})


def register(controller: str, worker: str, models: list[str]) -> None:
    """As LLaVA's and FastChat's workers do. Raises: OSError."""
    body: dict[str, Any] = {
        "worker_name": worker,
        "check_heart_beat": False,
        "worker_status": {"model_names": models, "speed": 1, "queue_length": 0},
        "multimodal": False,
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{controller}/register_worker", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=REGISTER_TIMEOUT) as response:
        response.read()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mock_engine", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=TOKENS_PER_SECOND")
    arguments = parser.parse_args()
    rates = {name: float(rate) for name, _, rate in (model.partition("=") for model in arguments.model)}
    uvicorn.run(
        MockEngine(rates).application(),
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
