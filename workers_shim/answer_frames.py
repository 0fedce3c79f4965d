"""What an engine's side says, and the numbered frame that carries it. Part of `outgoing`. Pure."""

import msgspec

from broker_wire.messages import End, Failed, FailureKind, Piece, Usage
from workers_shim.request import Chunk

ITEM_BYTES = 16
"""Counted for each chunk besides its text, so that empty ones are bounded, too."""


class Last(msgspec.Struct, frozen=True):
    """The end of the answer."""

    finish_reason: str = "stop"
    usage: Usage | None = None
    failure: FailureKind | None = None
    message: str = ""
    code: str = ""
    param: str = ""


RUN_BYTES = 16 * 1024
"""Of a payload that goes out together with others."""


def bare_payload(item: Chunk | Last) -> bytes | None:
    """Its payload, if it is not too large and there is nothing beside it that the controller has to know."""
    if not isinstance(item, Chunk) or item.payload is None or len(item.payload) > RUN_BYTES:
        return None
    says_more = item.text or item.finish_reason or item.usage or item.index or item.logprobs is not None
    return None if says_more or item.replace_from is not None else item.payload


def size_of(item: str | Chunk | Last) -> int:
    """Counted in characters and bytes. UTF-8 may need four bytes for a character."""
    if isinstance(item, str):
        return len(item) + ITEM_BYTES
    if isinstance(item, Chunk):
        return len(item.text) + len(item.payload or b"") + len(item.logprobs or b"") + ITEM_BYTES
    return len(item.message) + ITEM_BYTES


def frame_of(item: Chunk | Last, stream: int, attempt: int, seq: int) -> Piece | End | Failed:
    """The frame of what is more than a plain delta."""
    if isinstance(item, Chunk):
        return Piece(
            stream,
            attempt,
            seq,
            item.text,
            item.payload,
            item.index,
            item.replace_from,
            item.logprobs,
            item.finish_reason,
        )
    if item.failure is None:
        return End(stream, attempt, seq, item.finish_reason, item.usage)
    return Failed(stream, attempt, seq, item.failure, item.message, item.code, item.param)
