"""A worker program with a slow engine that answers in every form there is: the prompt or the last message names it."""

import argparse
import json
import os
import time
from collections.abc import Iterator

from workers_shim import Chunk, Request, Usage, Worker

TOKENS = 60
PACE = 0.03
"""Seconds a token."""


def answer(request: Request) -> Iterator[str | Chunk]:
    """The same for the same request, but for ids, times and what is measured."""
    kind = request.prompt if request.messages is None else request.messages[-1]["content"]
    head = {"id": f"chatcmpl-{os.getpid()}", "object": "chat.completion.chunk", "created": os.getpid(), "model": "m"}

    def payload(delta: dict[str, object], reason: str | None = None) -> Chunk:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return Chunk(payload=json.dumps(head | {"choices": [choice]}).encode())

    for number in range(TOKENS):
        time.sleep(PACE)
        match kind:
            case "text":
                yield f"t{number} "
            case "payload":
                yield payload({"content": f"t{number} "}, None if number < TOKENS - 1 else "length")
            case "n=2":
                yield Chunk(f"t{number} ", index=number % 2)
            case "tools":
                call = {"index": 0, "function": {"arguments": f"t{number} "}}
                more = {} if number else {"id": f"call-{os.getpid()}", "type": "function"}
                yield payload({"tool_calls": [call | more]})
            case "logprobs":
                yield Chunk(f"t{number} ", logprobs={"content": [{"token": f"t{number} ", "logprob": -1.0}]})
            case "diverging":
                yield f"{os.getpid()} "
    yield Chunk(finish_reason="tool_calls" if kind == "tools" else "length", usage=Usage(1, TOKENS))


def main() -> None:
    """Serve the model `m`."""
    parser = argparse.ArgumentParser()
    for option in ("name", "broker-url", "prefix"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--resume", default="replay")
    options = parser.parse_args()
    worker = Worker(options.name, broker_url=options.broker_url, prefix=options.prefix)
    worker.add_model("m", answer, resume=options.resume)
    worker.run()


if __name__ == "__main__":
    main()
