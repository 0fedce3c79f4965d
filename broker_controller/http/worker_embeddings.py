"""Embeddings in FastChat's form, from an engine's vectors or its answer in OpenAI's form. Numbers pass as they come."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from broker_controller.errors import EngineError
from broker_wire.messages import End, Piece


class _Entry(Struct):
    """A worker's vector: a list of numbers, or base64."""

    index: int
    embedding: msgspec.Raw


class _Usage(Struct):
    prompt_tokens: int = 0


class _Whole(Struct):
    """An engine's own answer."""

    data: list[_Entry]
    usage: _Usage | None = None


_read = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def encode_embeddings(items: Sequence[str | Piece | End]) -> bytes:
    """`{"embedding": […], "token_num": n}`.

    Raises: EngineError, where the engine gave something else.
    """
    payloads = [item.payload for item in items if isinstance(item, Piece) and item.payload is not None]
    end = items[-1]
    tokens = end.usage.prompt_tokens if isinstance(end, End) and end.usage is not None else 0
    try:
        entries, counted = _entries_of(payloads)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError("the engine's answer cannot be read: it is not made of embeddings") from error
    vectors = [entry.embedding for entry in sorted(entries, key=lambda entry: entry.index)]
    return msgspec.json.encode({"embedding": vectors, "token_num": tokens if counted is None else counted})


def _entries_of(payloads: Sequence[bytes]) -> tuple[list[_Entry], int | None]:
    """The vectors, and the count of tokens where an engine says it among them. Raises: msgspec.DecodeError."""
    if not payloads:
        raise EngineError("the engine gave no embeddings")
    if len(payloads) == 1 and "data" in _read(payloads[0]):
        whole = msgspec.json.decode(payloads[0], type=_Whole)
        return whole.data, None if whole.usage is None else whole.usage.prompt_tokens
    return [msgspec.json.decode(payload, type=_Entry) for payload in payloads], None
