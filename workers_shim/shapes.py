"""The shapes that answers have in people's code, and what makes our chunks of each. Used by `served_model`.

Deltas, the common shape, pass through nothing here.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from workers_shim.cumulative import Answer, Deltas, read_answer
from workers_shim.openai_chunks import PayloadWriter
from workers_shim.request import Chunk, Request
from workers_shim.text_guard import PromptStripper


class Yields(StrEnum):
    """What a function yields."""

    DELTAS = "deltas"
    """`str` or `Chunk`: what is new."""
    CHUNKS = "chunks"
    """OpenAI's chunks: dicts, JSON, server-sent events, or objects of `openai.types`."""
    CUMULATIVE = "cumulative"
    """The whole text so far, or LLaVA's and FastChat's JSON of it."""
    CUMULATIVE_AFTER_PROMPT = "cumulative-after-prompt"
    """The same with `Request.prompt` in front of it, as LLaVA's workers do."""


class Converter(Protocol):
    """Of one answer."""

    def feed(self, item: object) -> Iterable[str | Chunk]:
        """What is new with this item."""

    def finish(self) -> Iterable[str | Chunk]:
        """What is left at the end."""


def convert(items: Iterator[Any], converter: Converter) -> Iterator[str | Chunk]:
    """A function's items as our chunks; closes it when it is closed itself."""
    try:
        for item in items:
            yield from converter.feed(item)
        yield from converter.finish()
    finally:
        close: Callable[[], object] | None = getattr(items, "close", None)
        if close is not None:
            close()


async def convert_async(items: AsyncIterator[Any], converter: Converter) -> AsyncIterator[str | Chunk]:
    """The same for an asynchronous one."""
    try:
        async for item in items:
            for chunk in converter.feed(item):
                yield chunk
        for chunk in converter.finish():
            yield chunk
    finally:
        # openai.AsyncStream has the second.
        close: Callable[[], Any] | None = getattr(items, "aclose", None) or getattr(items, "close", None)
        if close is not None:
            await close()


def converter_of(yields: Yields, request: Request) -> Converter:
    """For one answer, in any shape but deltas."""
    if yields is Yields.CHUNKS:
        return PayloadWriter(request)
    return _Cumulative(request, after_prompt=yields is Yields.CUMULATIVE_AFTER_PROMPT)


class _Cumulative:
    """Reads texts or objects, and has `Deltas` find what is new."""

    def __init__(self, request: Request, *, after_prompt: bool) -> None:
        self._request = request
        self._after_prompt = after_prompt
        self._deltas: Deltas | None = None

    def feed(self, item: object) -> Iterator[str | Chunk]:
        """Raises: EngineFailed, RequestError, for an object that says so; TypeError, ValueError, for what is none."""
        if isinstance(item, Chunk) or not item:
            # A sign of life.
            yield item if isinstance(item, Chunk) else ""
            return
        for answer in _answers_of(item):
            yield self._begun().feed(answer)

    def finish(self) -> Iterator[str | Chunk]:
        return iter(()) if self._deltas is None else self._deltas.finish()

    def _begun(self) -> Deltas:
        # Made late: a function that makes a prompt of a chat has written it by now.
        if self._deltas is None:
            request = self._request
            stripper = PromptStripper(request.prompt or "", honours_echo=False) if self._after_prompt else None
            self._deltas = Deltas(stripper, request.stop, begun=len(request.resume_text))
        return self._deltas


def _answers_of(item: object) -> Iterator[Answer]:
    """A text, an object, or objects that each end with NUL."""
    if isinstance(item, str) and not item.endswith("\0"):
        yield Answer(item)
    elif isinstance(item, str | bytes):
        data = item.encode() if isinstance(item, str) else item
        for piece in data.split(b"\0"):
            if piece.strip():
                yield read_answer(piece)
    else:
        with contextlib.suppress(msgspec.ValidationError):
            yield msgspec.convert(item, Answer)
            return
        raise TypeError(f"a {type(item).__name__} was yielded: yield the text so far, or LLaVA's object of it")
