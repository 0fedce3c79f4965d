"""The engine `echo` as an OpenAI engine, for tests of clients: several choices, logprobs, JSON, tools, reasoning.

Pure: one answer as a plain generator. `echo` hands a request to it that asks for more than repeated words, and
`echo_faults` sees to its pace and its failures. The same request has the same answer, but for times.
"""

import itertools
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from broker_wire.messages import Operation
from workers_shim import Chunk, Request, Usage
from workers_shim.engines.echo_wishes import Wishes
from workers_shim.engines.echo_words import DEFAULT_MAX_TOKENS, repeated_from

PIECE = re.compile(r".{1,4}", re.DOTALL)
"""JSON comes four characters a token."""
LOGPROB = -0.5
"""Of every token; each alternative has one less than the one before it."""


class Step(Struct, frozen=True):
    """One token of one choice.

    Attributes:
        text: of the answer.
        delta: what a chat's chunk has in place of a text.
    """

    text: str = ""
    delta: dict[str, Any] | None = None


class Choice:
    """One of the `n` answers: its tokens, and why it ends. The first begins with the first word, and so on."""

    def __init__(self, index: int, request: Request, wishes: Wishes, words: Sequence[str]) -> None:
        self.index = index
        self.tokens = 0
        self.finish_reason: str | None = None
        self._limit = request.max_tokens
        self._natural_end = "tool_calls" if wishes.calls else "stop"
        self._steps = self._make_steps(request, wishes, words)

    def next(self) -> Step | None:
        """None when it has ended."""
        step = next(self._steps, None)
        if step is None:
            self.finish_reason = self._natural_end
        elif self._limit is not None and self.tokens >= self._limit:
            self.finish_reason = "length"
            return None
        else:
            self.tokens += 1
        return step

    def _make_steps(self, request: Request, wishes: Wishes, words: Sequence[str]) -> Iterator[Step]:
        for token in itertools.islice(repeated_from(words, self.index), wishes.behaviour.reasoning):
            yield Step(delta={"reasoning_content": token})
        if wishes.calls:
            for number, call in enumerate(wishes.calls):
                name = f"call_{request.default_seed:08x}{self.index:02x}{number:02x}"
                yield _tool_step(number, {"name": call.name, "arguments": ""}, id=name, type="function")
                for piece in PIECE.findall(call.arguments):
                    yield _tool_step(number, {"arguments": piece})
        elif wishes.text is not None:
            yield from map(Step, PIECE.findall(wishes.text))
        else:
            self._natural_end = "length"
            count = DEFAULT_MAX_TOKENS if self._limit is None else None
            yield from map(Step, itertools.islice(repeated_from(words, self.index), count))


def answer(request: Request, words: Sequence[str], wishes: Wishes) -> Iterator[str | Chunk]:
    """All of it: the choices take turns, a token each."""
    as_payloads = bool(wishes.calls or wishes.behaviour.reasoning)
    form: _Payloads | _Texts = (_Payloads if as_payloads else _Texts)(request, wishes, words)
    choices = [Choice(index, request, wishes, words) for index in range(wishes.choices)]
    running = choices
    yield from itertools.chain.from_iterable(form.begin(choice) for choice in choices)
    while running:
        for choice in running:
            step = choice.next()
            yield from form.end(choice) if step is None else form.token(choice, step)
        running = [choice for choice in running if choice.finish_reason is None]
    yield form.usage(Usage(len(words), sum(choice.tokens for choice in choices)))


class _Texts:
    """As our own chunks, which the controller writes in its client's protocol."""

    def __init__(self, request: Request, wishes: Wishes, words: Sequence[str]) -> None:
        self._request = request
        self._top = wishes.top_logprobs
        self._words = words
        self._offsets = [0] * wishes.choices

    def begin(self, _: Choice) -> Iterable[str | Chunk]:
        return ()

    def token(self, choice: Choice, step: Step) -> Iterable[str | Chunk]:
        if self._top is None:
            yield step.text if choice.index == 0 else Chunk(step.text, index=choice.index)
            return
        logprobs = self._logprobs(step.text, self._offsets[choice.index])
        self._offsets[choice.index] += len(step.text)
        yield Chunk(step.text, index=choice.index, logprobs=logprobs)

    def end(self, choice: Choice) -> Iterable[str | Chunk]:
        yield Chunk(finish_reason=choice.finish_reason, index=choice.index)

    def usage(self, usage: Usage) -> Chunk:
        return Chunk(usage=usage)

    def _logprobs(self, token: str, offset: int) -> dict[str, Any]:
        if self._request.operation is Operation.CHAT:
            return {"content": [chat_logprobs(token, self._words, self._top or 0)]}
        alternatives = dict(_alternatives(token, self._words, self._top or 0))
        return {
            "tokens": [token],
            "token_logprobs": [LOGPROB],
            "top_logprobs": [alternatives],
            "text_offset": [offset],
        }


class _Payloads:
    """As OpenAI's own chunks, for what is not a text."""

    def __init__(self, request: Request, wishes: Wishes, words: Sequence[str]) -> None:
        options = request.parameters.get("stream_options")
        self._wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._top = wishes.top_logprobs
        self._words = words
        self._head = {
            "id": f"chatcmpl-{request.default_seed:08x}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": request.model,
        }

    def begin(self, choice: Choice) -> Iterable[str | Chunk]:
        yield self._chunk(choice, {"role": "assistant", "content": None})

    def token(self, choice: Choice, step: Step) -> Iterable[str | Chunk]:
        if step.delta is not None:
            yield self._chunk(choice, step.delta)
        elif self._top is None:
            yield self._chunk(choice, {"content": step.text}, step.text)
        else:
            logprobs = {"content": [chat_logprobs(step.text, self._words, self._top)]}
            yield self._chunk(choice, {"content": step.text}, step.text, logprobs=logprobs)

    def end(self, choice: Choice) -> Iterable[str | Chunk]:
        yield self._chunk(choice, {})

    def usage(self, usage: Usage) -> Chunk:
        if not self._wants_usage:
            return Chunk(usage=usage)
        counts = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        return Chunk(payload=msgspec.json.encode(self._head | {"choices": [], "usage": counts}), usage=usage)

    def _chunk(self, choice: Choice, delta: dict[str, Any], text: str = "", **more: Any) -> Chunk:
        reason = choice.finish_reason
        written = {"index": choice.index, "delta": delta, **more, "finish_reason": reason}
        return Chunk(
            text if choice.index == 0 else "",
            finish_reason=reason,
            payload=msgspec.json.encode(self._head | {"choices": [written]}),
            index=choice.index,
        )


def chat_logprobs(token: str, words: Sequence[str], top: int) -> dict[str, Any]:
    """One entry of a chat's `logprobs.content`."""

    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode(errors="replace"))}

    alternatives = [entry(other, logprob) for other, logprob in _alternatives(token, words, top)]
    return entry(token, LOGPROB) | {"top_logprobs": alternatives}


def _alternatives(token: str, words: Sequence[str], top: int) -> Iterator[tuple[str, float]]:
    """The token itself, then other words of the prompt."""
    others = dict.fromkeys([token, *(f" {word}" for word in words[:top])])
    return ((other, LOGPROB - number) for number, other in enumerate(itertools.islice(others, top)))


def _tool_step(number: int, function: dict[str, str], **more: str) -> Step:
    return Step(delta={"tool_calls": [{"index": number, **more, "function": function}]})
