"""An engine without a model, for tests and benchmarks: repeats the prompt's words, at full speed or at a given pace.

Chunk i is word i modulo k of the prompt's k words, joined by single spaces, so every answer can be checked.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import chain, cycle, islice
from typing import Any

from workers_shim import Chunk, Request, RequestError, Usage, Worker

DEFAULT_MAX_TOKENS = 64


class Echo:
    """Answers requests. `tokens_per_second` is each stream's pace; None is as fast as possible."""

    def __init__(self, tokens_per_second: float | None = None) -> None:
        """Raises: ValueError."""
        if tokens_per_second is not None and not tokens_per_second > 0:
            raise ValueError(f"tokens per second have to be more than 0, not {tokens_per_second}")
        self._interval = None if tokens_per_second is None else 1.0 / tokens_per_second

    async def generate(self, request: Request) -> AsyncIterator[str | Chunk]:
        """Raises: RequestError, when the prompt has no words."""
        words = prompt_of(request).split()
        if not words:
            raise RequestError("the prompt is empty: there is no word to repeat")
        if request.parameters.get("n", 1) != 1:
            raise RequestError("this engine gives one answer: n has to be 1")
        count = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        # The first token alone has no space before it.
        tokens = islice(chain(words[:1], cycle([f" {word}" for word in (*words[1:], words[0])])), count)
        if self._interval is None:
            for token in tokens:
                yield token
        else:
            began = time.monotonic()
            for i, token in enumerate(tokens):
                # By the schedule, not by the last token: delays do not add up.
                await asyncio.sleep(began + i * self._interval - time.monotonic())
                yield token
        yield Chunk(finish_reason="length", usage=Usage(len(words), count))


def register(worker: Worker, model: str, echo: Echo) -> None:
    """Serve a model by it. The same request has the same answer anywhere, so it may be repeated."""
    worker.add_model(
        model,
        echo.generate,
        abilities=("chat", "completion", "vision"),
        resume="replay",
        shared_loop=True,
    )


def prompt_of(request: Request) -> str:
    """The text of the last user message of a chat, or the prompt.

    Raises: RequestError.
    """
    if request.messages is None:
        if request.prompt is None:
            raise RequestError("the prompt has to be one text")
        return request.prompt
    for message in reversed(request.messages):
        if message["role"] == "user":
            return _text_of(message.get("content"))
    raise RequestError("no message has the role 'user'")


def _text_of(content: Any) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return " ".join(text for text in texts if isinstance(text, str))
