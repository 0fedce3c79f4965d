"""Puts OpenAI's answer to `/v1/embeddings` together: bytes of the worker's, with what belongs around them.

A worker sends each vector as an entry of the answer's `data`. An engine that speaks OpenAI's protocol itself sends its
whole answer, which is passed on as it is.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct

from broker_controller.errors import EngineError
from broker_wire.messages import End, Piece


class _Whole(Struct):
    """An engine's own answer."""

    data: Raw


class _Entry(Struct):
    """A worker's vector."""

    index: int
    embedding: Raw


_is_whole = msgspec.json.Decoder(_Whole)
_entry = msgspec.json.Decoder(_Entry)


def assemble_embeddings(model: str, items: Sequence[str | Piece | End]) -> bytes:
    """The JSON of the whole answer.

    Args:
        items: everything that came; the last is an `End`.

    Raises: EngineError, if it is neither vectors nor an answer.
    """
    payloads = [item.payload for item in items if type(item) is Piece and item.payload is not None]
    end = items[-1]
    if len(payloads) == 1 and _reads(_is_whole, payloads[0]):
        return payloads[0]
    if not payloads or not all(_reads(_entry, payload) for payload in payloads):
        raise EngineError("the engine's answer cannot be read: it is not made of embeddings")
    # OpenAI's clients insist on counts: 0 where the engine does not count.
    tokens = end.usage.prompt_tokens if type(end) is End and end.usage is not None else 0
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        b",".join(payloads),
        msgspec.json.encode(model),
        tokens,
        tokens,
    )


def _reads(decoder: "msgspec.json.Decoder[_Whole] | msgspec.json.Decoder[_Entry]", payload: bytes) -> bool:
    try:
        decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
