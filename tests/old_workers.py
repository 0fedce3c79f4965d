"""HTTP workers as LLaVA and FastChat have them, without a model: real servers, each in a process of its own.

    python -m tests.old_workers llava|fastchat --port PORT [--model NAME]… [--pause SECONDS]

What a worker answers is in the prompt: `SAY one two three|` makes it answer "one two three", a word a token. Where the
prompt ends with a beginning of that, the rest is answered.
A word may be an order instead: !die ends the process, !error and !overflow end the answer as an error, !hang waits
until the client has gone, !ping sends a bare NUL, !unsay takes the word before it back. `GET /seen` tells the requests
so far, how many were left by their client, and the latest parameters.
"""

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

COMPLAINT = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
TEMPLATE = {
    "name": "test",
    "system_template": "{system_message}",
    "system_message": "",
    "roles": ["user", "bot"],
    "messages": [],
    "offset": 0,
    "sep_style": 6,
    "sep": "\n",
    "sep2": None,
    "stop_str": "<end>",
    "stop_token_ids": [2],
}


def words_of(prompt: str) -> list[str]:
    said = prompt.rpartition("SAY ")[2].partition("|")[0].split(" ")
    return [said[0], *(f" {word}" for word in said[1:])]


def is_order(word: str) -> bool:
    return word.strip().startswith("!")


def count_said(prompt: str) -> int:
    """How many of its words are at the prompt's end already."""
    words = words_of(prompt)
    end = prompt.rpartition("SAY ")[2].partition("|")[2]
    spoken = ["".join(word for word in words[:count] if not is_order(word)) for count in range(len(words) + 1)]
    return max(count for count, text in enumerate(spoken) if not count or (text and end.endswith(text)))


class OldWorkerServer:
    """What both kinds have in common."""

    def __init__(self, models: list[str], pause: float) -> None:
        self.models = models
        self.pause = pause
        self.requests = self.running = self.left = 0
        self.parameters: dict[str, Any] = {}

    def routes(self) -> list[Route]:
        return [
            Route("/worker_generate_stream", self.generate_stream, methods=["POST"]),
            Route("/worker_get_status", self.get_status, methods=["POST"]),
            Route("/seen", self.seen),
        ]

    async def get_status(self, request: Request) -> Response:
        return JSONResponse({"model_names": self.models, "speed": 1, "queue_length": self.running})

    async def seen(self, request: Request) -> Response:
        return JSONResponse({"requests": self.requests, "left": self.left, "parameters": self.parameters})

    async def generate_stream(self, request: Request) -> Response:
        self.requests += 1
        self.parameters = await request.json()
        return StreamingResponse(self._watched(self.parameters))

    async def _watched(self, parameters: dict[str, Any]) -> AsyncIterator[bytes]:
        self.running += 1
        complete = False
        try:
            async for sent in self._gate(parameters):
                yield sent if isinstance(sent, bytes) else json.dumps(sent).encode() + b"\0"
            complete = True
        finally:
            self.running -= 1
            self.left += not complete

    async def _gate(self, parameters: dict[str, Any]) -> AsyncIterator[dict[str, Any] | bytes]:
        try:
            async for sent in self.answer(parameters):
                yield sent
        except Exception as error:  # noqa: BLE001, as they do
            yield self.failed(error)

    async def tokens(self, prompt: str) -> AsyncIterator[str]:
        for word in words_of(prompt)[count_said(prompt) :]:
            await asyncio.sleep(self.pause)
            match word.strip():
                case "!die":
                    os._exit(9)
                case "!error":
                    raise ValueError("the tensor is too small")
                case "!overflow":
                    raise OverflowError("too long")
                case "!hang":
                    await asyncio.sleep(3600)
                case _:
                    yield word

    def answer(self, parameters: dict[str, Any]) -> AsyncIterator[dict[str, Any] | bytes]:
        raise NotImplementedError

    def failed(self, error: Exception) -> dict[str, Any]:
        raise NotImplementedError


class LlavaWorker(OldWorkerServer):
    """Sends the prompt before the answer whatever `echo` says, needs one stop string, cuts it off and goes on."""

    async def answer(self, parameters: dict[str, Any]) -> AsyncIterator[dict[str, Any] | bytes]:
        text, stop = str(parameters["prompt"]), parameters["stop"]
        async for token in self.tokens(text):
            if token.strip() == "!ping":
                yield b"\0"
                continue
            text = text.rpartition(" ")[0] if token.strip() == "!unsay" else text + token
            if text.endswith(stop):
                text = text[: -len(stop)]
            yield {"text": text, "error_code": 0}

    def failed(self, error: Exception) -> dict[str, Any]:
        return {"text": COMPLAINT, "error_code": 1}


class FastChatWorker(OldWorkerServer):
    """Honours `echo`, ends at any stop string without showing a part of it, tells of its model, makes embeddings."""

    def routes(self) -> list[Route]:
        return [
            *super().routes(),
            Route("/worker_get_conv_template", self.get_conv_template, methods=["POST"]),
            Route("/count_token", self.count_token, methods=["POST"]),
            Route("/model_details", self.model_details, methods=["POST"]),
            Route("/worker_get_embeddings", self.get_embeddings, methods=["POST"]),
        ]

    async def count_token(self, request: Request) -> Response:
        return JSONResponse({"count": self._count((await request.json())["prompt"]), "error_code": 0})

    async def model_details(self, request: Request) -> Response:
        return JSONResponse({"context_length": 4096})

    async def get_embeddings(self, request: Request) -> Response:
        inputs = (await request.json())["input"]
        if "!error" in inputs:
            return JSONResponse(self.failed(ValueError("the tensor is too small")))
        return JSONResponse({"embedding": [[float(len(text)), 0.5] for text in inputs], "token_num": len(inputs)})

    def _count(self, prompt: str) -> int:
        return 7 + count_said(prompt)

    async def get_conv_template(self, request: Request) -> Response:
        return JSONResponse({"conv": TEMPLATE})

    async def answer(self, parameters: dict[str, Any]) -> AsyncIterator[dict[str, Any] | bytes]:
        prompt = parameters["prompt"]
        text = prompt if parameters.get("echo", True) else ""
        tokens: list[str] = []
        cut = False
        async for token in self.tokens(prompt):
            tokens.append(token)
            text += token
            found = [position for stop in parameters["stop"] if (position := text.find(stop, len(text) - 16)) >= 0]
            if found:
                text, cut = text[: min(found)], True
            yield self._object(text, tokens, parameters, None)
            if cut or len(tokens) >= parameters["max_new_tokens"]:
                break
        yield self._object(
            text, tokens, parameters, "stop" if cut or len(tokens) < parameters["max_new_tokens"] else "length"
        )

    def _object(
        self, text: str, tokens: list[str], parameters: dict[str, Any], finish_reason: str | None
    ) -> dict[str, Any]:
        counts = self._count(parameters["prompt"]), len(tokens)
        usage = {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}
        sent = {"text": text, "error_code": 0, "usage": usage, "finish_reason": finish_reason}
        if parameters.get("logprobs") is None:
            return sent
        return sent | {"logprobs": {"tokens": list(tokens), "token_logprobs": [-0.5] * len(tokens)}}

    def failed(self, error: Exception) -> dict[str, Any]:
        code = 40303 if isinstance(error, OverflowError) else 50001
        return {"text": f"{COMPLAINT}\n\n({error})", "error_code": code}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("llava", "fastchat"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", action="append")
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()
    kind = LlavaWorker if options.kind == "llava" else FastChatWorker
    app = Starlette(routes=kind(options.model or ["m"], options.pause).routes())
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="info", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
