"""A worker program that speaks all of OpenAI's API, the same for the same request: the last word of a prompt says what.

Models: `talker` gives texts, and what it is asked to; `embedder` gives vectors; `mirror` is for a server
that judges bodies itself, and says what it was asked.
"""

import argparse
import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from broker_wire.topology import QueueBounds
from workers_shim import Chunk, Embeddings, Request, RequestError, Usage, Worker

TOKENS = 6
PACE = 0.02
"""Seconds a token of an endless answer."""
OWN_CHUNKS = (
    b'{"id":"theirs", "object":"chat.completion.chunk","created":1,"model":"other/name","choices":[{"index":0,'
    b'"delta":{"role":"assistant","reasoning_content":"hm\\u00e9"},"finish_reason":null}],"x_vendor":{"a":[1.50]}}',
    b'{"id":"theirs","object":"chat.completion.chunk","created":1,"model":"other/name","choices":[{"index":0,'
    b'"delta":{"content":"hi"},"logprobs":null ,"finish_reason":"stop"}],"service_tier":"vip"}',
    b'{"id":"theirs","object":"chat.completion.chunk","created":1,"model":"other/name","choices":[],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{"cached_tokens":1}}}',
)
"""As an OpenAI-compatible engine writes them, with what no other one has."""
OWN_WHOLE = (
    b'{ "id":"theirs","object":"chat.completion", "created":1,"model":"other/name","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"hi","reasoning_content":"hm"},"finish_reason":"stop"}],\n"usage":null,"x":1.0}'
)
ADA: dict[str, Any] = {"name": "Ada", "age": 36}
CALL_ARGUMENTS = ('{"city"', ':"Paris"}')


def talk(request: Request) -> Iterator[str | Chunk]:
    """Texts, chunks, errors or nothing at all."""
    match _wish(request):
        case "raw":
            yield base64.b64encode(request.raw).decode()
        case "seen":
            yield json.dumps({name: getattr(request, name) for name in SEEN})
        case "own" if request.stream:
            yield from (Chunk(payload=payload) for payload in OWN_CHUNKS)
        case "own":
            yield Chunk(payload=OWN_WHOLE)
        case "weather":
            yield from _calls_a_tool(request)
        case "Ada":
            yield from _person(request)
        case "endless":
            while True:
                time.sleep(PACE)
                yield "on and "
        case "silence":
            while True:
                time.sleep(PACE)
                request.raise_if_cancelled()
        case "refuse":
            raise RequestError("the prompt is too long")
        case "raise":
            raise RuntimeError("out of memory")
        case "break":
            yield "half "
            yield "an answer"
            raise RuntimeError("out of memory")
        case _:
            yield from _count(request)


SEEN = ("max_tokens", "temperature", "top_p", "stop", "seed", "images", "stream", "parameters")


def embed(request: Request) -> Embeddings:
    """The length of a text, and its position among the inputs."""
    size = request.parameters.get("dimensions", 2)
    vectors = [[float(len(text)), number / 4, *[0.0] * (size - 2)] for number, text in enumerate(request.inputs)]
    return Embeddings(vectors, prompt_tokens=sum(len(text) for text in request.inputs))


def mirror(request: Request) -> Iterator[dict[str, Any]]:
    """An answer that is neither OpenAI's completion nor its embeddings, and both."""
    yield {"choices": [], "data": [], "x_asked": base64.b64encode(request.raw).decode()}


def _wish(request: Request) -> str:
    if request.messages is None:
        return (request.prompt or "count").split()[-1]
    for message in reversed(request.messages):
        content = message.get("content")
        if message["role"] == "user":
            texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content or ()]
            return " ".join(texts).split()[-1].strip("?.")
    raise RequestError("nobody asks for anything")


def _count(request: Request) -> Iterator[Chunk]:
    limit = TOKENS if request.max_tokens is None else request.max_tokens
    choices = range(request.parameters.get("n") or 1)
    for index in choices:
        text, reason = "", "length"
        for number in range(limit):
            token = f"{number} "
            if any(stop in text + token for stop in request.stop):
                reason = "stop"
                break
            text += token
            yield Chunk(token, index=index, logprobs=_logprobs(request, token))
        yield Chunk(finish_reason=reason, index=index)
    yield Chunk(usage=Usage(3, limit * len(choices)))


def _logprobs(request: Request, token: str) -> Any:
    wanted = request.parameters.get("logprobs")
    if not wanted:
        return None
    if request.messages is None:
        return {"tokens": [token], "token_logprobs": [-0.5], "top_logprobs": [{token: -0.5}], "text_offset": [0]}
    top = [{"token": token, "logprob": -0.5, "bytes": list(token.encode())}] * request.parameters.get("top_logprobs", 0)
    return {"content": [{"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": top}]}


def _calls_a_tool(request: Request) -> Iterator[Chunk]:
    if any(message["role"] == "tool" for message in request.messages or ()):
        yield Chunk("It rains.")
        return
    tools = request.parameters.get("tools") or []
    if not tools:
        raise RequestError("there is no tool to ask for the weather")
    yield from _call(tools[0]["function"]["name"], CALL_ARGUMENTS)


def _call(name: str, arguments: tuple[str, ...]) -> Iterator[Chunk]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "talker"}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> Chunk:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return Chunk(payload=msgspec.json.encode(head | {"choices": [choice]}), finish_reason=reason)

    begun = {"index": 0, "id": "call-1", "type": "function", "function": {"name": name, "arguments": ""}}
    yield chunk({"role": "assistant", "content": None, "tool_calls": [begun]})
    for part in arguments:
        yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    yield chunk({}, "tool_calls")
    yield Chunk(usage=Usage(5, len(arguments)))


def _person(request: Request) -> Iterator[Chunk]:
    """By a schema, or by a tool where the client wants it so."""
    if request.parameters.get("tools"):
        yield from _call(request.parameters["tools"][0]["function"]["name"], (json.dumps(ADA),))
    elif not request.parameters.get("response_format"):
        raise RequestError("nothing says in which form Ada is wanted")
    else:
        yield Chunk(json.dumps(ADA), finish_reason="stop", usage=Usage(4, 8))


def main() -> None:
    """Serve all three."""
    parser = argparse.ArgumentParser()
    for option in ("name", "broker-url", "prefix"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--queue-limit", type=int, default=QueueBounds().max_length)
    options = parser.parse_args()
    worker = Worker(
        options.name,
        broker_url=options.broker_url,
        prefix=options.prefix,
        slots=options.slots,
        bounds=QueueBounds(max_length=options.queue_limit),
    )
    worker.add_model("talker", talk, abilities=("chat", "completion", "vision"))
    worker.add_model("embedder", embed, abilities=("embedding",))
    worker.add_model("mirror", mirror, abilities=("completion", "embedding"), yields="chunks", unchecked=True)
    worker.run()


if __name__ == "__main__":
    main()
