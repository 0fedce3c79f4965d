"""An engine without a model, for tests and benchmarks: repeats the prompt's words, at full speed or at a given pace.

Chunk i is word i modulo k of the prompt's k words, joined by single spaces, so every answer can be checked. What asks
for more than one such text is answered by `echo_openai`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import islice

from broker_wire.messages import Operation
from workers_shim import Chunk, Conversation, Embeddings, Request, Usage, Worker
from workers_shim.engines.echo_embeddings import embeddings
from workers_shim.engines.echo_faults import check_allowed, interval_of, perform
from workers_shim.engines.echo_openai import answer
from workers_shim.engines.echo_wishes import SPECIAL, read_wishes
from workers_shim.engines.echo_words import DEFAULT_MAX_TOKENS, repeated, words_of

CONTEXT_LENGTH = 32_768
"""Words that it says it can see. It would repeat any number; clients of FastChat's protocol need one."""
CONVERSATION = Conversation(name="echo", roles=("", ""), sep_style=4)
"""A chat as a prompt: what was said, a line each."""


class Echo:
    """Answers requests.

    Args:
        tokens_per_second: each stream's pace; None is as fast as possible.
        may_die: a request may ask the process to end.
    """

    def __init__(self, tokens_per_second: float | None = None, *, may_die: bool = False) -> None:
        """Raises: ValueError."""
        if tokens_per_second is not None and not tokens_per_second > 0:
            raise ValueError(f"tokens per second have to be more than 0, not {tokens_per_second}")
        self._interval = None if tokens_per_second is None else 1.0 / tokens_per_second
        self._may_die = may_die

    async def generate(self, request: Request) -> AsyncIterator[str | Chunk | Embeddings]:
        """Raises: RequestError, when the prompt has no words; whatever the request asks for."""
        if request.operation is Operation.EMBEDDING:
            yield embeddings(request)
            return
        words = words_of(request)
        if not SPECIAL.isdisjoint(request.parameters):
            async for item in self._special(request, words):
                yield item
            return
        count = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        tokens = islice(repeated(words), count)
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

    def _special(self, request: Request, words: list[str]) -> AsyncIterator[str | Chunk]:
        wishes = read_wishes(request, " ".join(words))
        check_allowed(wishes.behaviour, may_die=self._may_die)
        interval = interval_of(wishes.behaviour, self._interval)
        return perform(answer(request, words, wishes), wishes.behaviour, interval)


def register(worker: Worker, model: str, echo: Echo) -> None:
    """Serve a model by it. The same request has the same answer anywhere, so it may be repeated."""
    worker.add_model(
        model,
        echo.generate,
        abilities=("chat", "completion", "embedding", "vision"),
        context_length=CONTEXT_LENGTH,
        resume="replay",
        shared_loop=True,
        count_tokens=lambda text: len(text.split()),
        conversation=CONVERSATION,
    )
