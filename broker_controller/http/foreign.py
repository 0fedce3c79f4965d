"""The chunks that an OpenAI-compatible engine writes itself: passed on as bytes, but after a move under one identity.

Used by `events`. Clients take chunks with another id for another answer.
"""

import re

import msgspec

_IDENTITY = ("id", "created", "system_fingerprint")
_END = re.compile(rb'"finish_reason"\s*:\s*"')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')

_read = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class ForeignChunks:
    """Those of one answer; `first` is the first of all, and `attempt` the one that it came with."""

    __slots__ = ("_attempt", "_first", "counted", "ended")

    def __init__(self, first: bytes, attempt: int) -> None:
        self._first = first
        self._attempt = attempt
        self.ended = False
        """A chunk has said why a choice ended."""
        self.counted = False
        """A chunk has had token counts."""

    def pass_on(self, payload: bytes, attempt: int) -> bytes:
        """A chunk for the client: untouched, unless it comes from another attempt than the first."""
        if not self.ended and _END.search(payload):
            self.ended = True
        if not self.counted and _USAGE.search(payload):
            self.counted = True
        return payload if attempt == self._attempt else self.with_first_identity(payload)

    def with_first_identity(self, payload: bytes) -> bytes:
        """The same chunk with the first one's id and time."""
        try:
            first, chunk = _read(self._first), _read(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return payload
        return _encode(chunk | {key: first[key] for key in _IDENTITY if key in first and key in chunk})
