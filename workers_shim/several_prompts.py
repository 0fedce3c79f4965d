"""A completion of several prompts, by a function that takes one: it is called for each, one after the other.

Used by `run`. The choices are numbered as OpenAI numbers them: all of the first prompt's `n`, then the second's.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec

from workers_shim.request import Chunk, Request, RequestError, Usage

Items = Iterator[str | Chunk] | AsyncIterator[str | Chunk]
Call = Callable[[Request], Items]
"""One call of the function."""


def in_turn(call: Call, request: Request) -> Items:
    """The chunks of all prompts.

    Raises: whatever the first call raises.
    """
    numbering = _Numbering(request)
    first = call(_of_one(request, 0))
    if isinstance(first, AsyncIterator):
        return _async(first, call, request, numbering)
    return _plain(first, call, request, numbering)


def _of_one(request: Request, position: int) -> Request:
    """The same request for one of its prompts. By one and the same default seed equal prompts would say the same."""
    prompt = request.inputs[position]
    parameters = {name: value for name, value in request.parameters.items() if name != "prompt"}
    if not isinstance(prompt, str):
        parameters["prompt"] = prompt
    return msgspec.structs.replace(
        request,
        prompt=prompt if isinstance(prompt, str) else None,
        inputs=[prompt],
        parameters=parameters,
        default_seed=(request.default_seed + position) % 2**31,
    )


class _Numbering:
    """Of the choices; with the counts of all prompts in one sum."""

    def __init__(self, request: Request) -> None:
        n = request.parameters.get("n")
        self._choices = n if isinstance(n, int) and n > 0 else 1
        self._model = request.model
        self._start = 0
        self._ended: set[int] = set()
        self._usage: Usage | None = None
        self._latest: Usage | None = None

    def number(self, item: Any) -> Any:
        """Raises: RequestError, for chunks that only their engine can number."""
        if isinstance(item, str):
            return Chunk(item, index=self._start) if self._start else item
        if not isinstance(item, Chunk):
            return item  # whoever reads the chunks says that it is none
        if item.payload is not None:
            raise RequestError(f"'prompt' has to be one text: model {self._model!r} does not take several at once")
        self._latest = item.usage or self._latest
        if item.finish_reason is not None:
            self._ended.add(item.index)
        return msgspec.structs.replace(item, index=self._start + item.index, usage=None)

    def end_prompt(self) -> Iterator[Chunk]:
        """After the last chunk of each prompt: its choices end here, and not with the whole answer."""
        for index in range(self._choices):
            if index not in self._ended:
                yield Chunk(finish_reason="stop", index=self._start + index)
        self._ended.clear()
        self._start += self._choices
        if self._latest is not None:
            former = self._usage or Usage(0, 0)
            self._usage = Usage(
                former.prompt_tokens + self._latest.prompt_tokens,
                former.completion_tokens + self._latest.completion_tokens,
            )
            self._latest = None

    def end(self) -> Chunk:
        """The last of all."""
        return Chunk(usage=self._usage)


def _plain(items: Any, call: Call, request: Request, numbering: _Numbering) -> Iterator[str | Chunk]:
    for position in range(len(request.inputs)):
        items = call(_of_one(request, position)) if position else items
        try:
            for item in items:
                yield numbering.number(item)
        finally:
            close: Callable[[], object] = getattr(items, "close", lambda: None)
            close()
        yield from numbering.end_prompt()
    yield numbering.end()


async def _async(items: Any, call: Call, request: Request, numbering: _Numbering) -> AsyncIterator[str | Chunk]:
    for position in range(len(request.inputs)):
        items = call(_of_one(request, position)) if position else items
        try:
            async for item in items:
                yield numbering.number(item)
        finally:
            close: Callable[[], Any] | None = getattr(items, "aclose", None)
            if close is not None:
                await close()
        for chunk in numbering.end_prompt():
            yield chunk
    yield numbering.end()
