"""What a function that embeds gives back, and the parts of OpenAI's answer that are made of it.

Part of the public API, together with `request`. A vector is encoded here, where it was made and as the client asked
for it, and travels by itself: the controller puts bytes together, and no message is larger than one vector.
"""

import base64
import math
import sys
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import msgspec

from workers_shim.request import Chunk, Request, RequestError, Usage


class Embeddings(msgspec.Struct, frozen=True):
    """The vectors of one request.

    Attributes:
        vectors: one for each of `Request.inputs`, in their order; lists, arrays, whatever yields numbers.
        prompt_tokens: how many tokens all inputs had; None where the engine does not count.
    """

    vectors: Iterable[Iterable[float]]
    prompt_tokens: int | None = None


Item = str | Chunk | Embeddings
"""What a function may yield."""


class Encoder:
    """Makes one request's chunks."""

    def __init__(self, request: Request) -> None:
        """Raises: RequestError, for what nobody can give."""
        encoding = request.parameters.get("encoding_format")
        if encoding not in (None, "float", "base64"):
            raise RequestError(f"'encoding_format' has to be float or base64, not {encoding!r:.40}")
        self._encode: Callable[[array[float]], Any] = _base64 if encoding == "base64" else list
        dimensions = request.parameters.get("dimensions")
        if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
            raise RequestError(f"'dimensions' has to be a whole number, at least 1, not {dimensions!r:.40}")
        self._dimensions = dimensions
        self._request = request

    def chunks(self, item: Item) -> Iterator[Chunk]:
        """What an item becomes: an engine's own answer passes.

        Raises: RequestError, when the vectors have not as many dimensions as were asked for; TypeError, ValueError.
        """
        if isinstance(item, Embeddings):
            yield from self._parts(item)
        elif isinstance(item, Chunk) and not item.text:
            yield item
        else:
            raise TypeError(f"model {self._request.model!r} was asked for embeddings and gave a text: give Embeddings")

    def _parts(self, answer: Embeddings) -> Iterator[Chunk]:
        vectors = [array("d", vector) for vector in answer.vectors]
        self._check(vectors)
        for index, vector in enumerate(vectors):
            part = {"object": "embedding", "index": index, "embedding": self._encode(vector)}
            yield Chunk(payload=msgspec.json.encode(part), index=index)
        if answer.prompt_tokens is not None:
            yield Chunk(usage=Usage(answer.prompt_tokens, 0))

    def _check(self, vectors: "list[array[float]]") -> None:
        request = self._request
        if not vectors and not request.inputs:
            raise RequestError("'input' has to be a text, a list of texts, or lists of token numbers")
        if request.inputs and len(vectors) != len(request.inputs):
            raise ValueError(
                f"model {request.model!r} gave {len(vectors)} embeddings, and was asked for {len(request.inputs)}"
            )
        for vector in vectors:
            if self._dimensions is not None and len(vector) != self._dimensions:
                raise RequestError(
                    f"model {request.model!r} gives vectors of {len(vector)} dimensions, not of {self._dimensions}: "
                    "leave 'dimensions' out"
                )
            if not all(map(math.isfinite, vector)):
                raise ValueError(f"model {request.model!r} gave an embedding with a number that is not finite")


def as_chunks(items: Iterator[Item] | AsyncIterator[Item], encoder: Encoder) -> Iterator[Chunk] | AsyncIterator[Chunk]:
    """A function's items as chunks, on the same kind of iterator."""
    return _async(items, encoder) if isinstance(items, AsyncIterator) else _plain(items, encoder)


def _plain(items: Iterator[Item], encoder: Encoder) -> Iterator[Chunk]:
    try:
        for item in items:
            yield from encoder.chunks(item)
    finally:
        close: Callable[[], object] = getattr(items, "close", lambda: None)
        close()


async def _async(items: AsyncIterator[Item], encoder: Encoder) -> AsyncIterator[Chunk]:
    try:
        async for item in items:
            for chunk in encoder.chunks(item):
                yield chunk
    finally:
        close: Callable[[], Any] | None = getattr(items, "aclose", None)
        if close is not None:
            await close()


def _base64(vector: "array[float]") -> str:
    """OpenAI's: 32-bit floats, the lowest byte first."""
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats).decode()
