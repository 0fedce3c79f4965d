"""The chunks that an OpenAI-compatible engine writes itself: passed on as bytes, but after a move under one identity.

Used by `events`. Clients take chunks with another id for another answer.
"""

import re

import msgspec

_IDENTITY = ("id", "created", "system_fingerprint")
_END = re.compile(rb'"finish_reason"\s*:\s*"')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')

_BETWEEN = b"\n\ndata: "

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

    def pass_on(self, payloads: list[bytes], attempt: int) -> bytes:
        """Events for the client, but for what is around them all. Untouched, unless of another attempt than the first.

        A line break between two tokens of JSON is legal there, and would end the event here.
        """
        if attempt != self._attempt:
            payloads = [self.with_first_identity(payload) for payload in payloads]
        events = _BETWEEN.join(payloads)
        if b"\r" in events or events.count(b"\n") > 2 * (len(payloads) - 1):
            events = _BETWEEN.join(payload.replace(b"\r", b" ").replace(b"\n", b" ") for payload in payloads)
        self.ended = self.ended or _END.search(events) is not None
        self.counted = self.counted or _USAGE.search(events) is not None
        return events

    def with_first_identity(self, payload: bytes) -> bytes:
        """The same chunk with the first one's id and time."""
        try:
            first, chunk = _read(self._first), _read(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return payload
        return _encode(chunk | {key: first[key] for key in _IDENTITY if key in first and key in chunk})
