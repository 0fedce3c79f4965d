"""LLaVA's and FastChat's streams: JSON objects that each end with NUL and each hold the whole text so far.

The protocol is quadratic. What keeps it bearable: the text is escaped once, as it grows; what came in one go is one
object; and a long answer is sent less often.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from broker_controller.errors import ServiceError
from broker_controller.forecast import Outlook
from broker_controller.http.call import OCTETS
from broker_controller.http.errors import cumulative_error
from broker_controller.http.events import usage_json
from broker_controller.http.logprobs import append_logprobs
from broker_controller.http.origin import start_fields
from broker_controller.streams import Item, StartInfo
from broker_wire.messages import End, Piece

_encode = msgspec.json.Encoder().encode

END = b"\0"
HOLD = 0.25
"""Seconds for which the headers wait, so that they can name the worker. Errors have status 200 here in any case."""
BYTES_PER_SECOND = 4 * 1024 * 1024
"""To one client. Answers of usual length never reach it; 100,000 chunks at full speed would be gigabytes."""

_BEFORE = b'{"text": "'


class CumulativeWriter:
    """Writes one answer. `prompt` is what its text begins with, "" where the client does not want it."""

    content_type = OCTETS
    hold = HOLD
    bytes_per_second = BYTES_PER_SECOND

    def __init__(self, prompt: str) -> None:
        self._object = bytearray(_BEFORE + _encode(prompt)[1:-1])
        """An object up to where its text ends."""
        self._answer_from = len(self._object)
        self._logprobs: dict[str, Any] = {}
        self._finish_reason: str | None = None
        self._origin: dict[str, Any] = {}
        """Who gave the answer, where its headers do not say so."""

    def keepalive(self, outlook: Outlook | None) -> bytes:  # noqa: ARG002 - the interface
        """A bare NUL, whatever there would be to say: clients parse all else as JSON."""
        return END

    def leaves(self, worker: str) -> bytes:  # noqa: ARG002 - the interface
        """A bare NUL."""
        return END

    def goes_on(self, start: StartInfo) -> bytes:  # noqa: ARG002 - the interface
        """A bare NUL."""
        return END

    def came_from(self, start: StartInfo) -> bytes:
        """Nothing yet: the last object has more keys. Clients read only those that they know."""
        self._origin = start_fields(start)
        return b""

    def encode(self, items: Sequence[Item]) -> bytes:
        """One object for all of them: clients look at the latest only."""
        return self.encode_object(items) + END

    def encode_object(self, items: Sequence[Item]) -> bytes:
        """The same without the NUL."""
        end = self._add(items)
        parts = [bytes(self._object), b'", "error_code": 0']
        if self._logprobs:
            parts += (b', "logprobs": ', _encode(self._logprobs))
        if end is not None:
            if end.usage is not None:
                parts += (b', "usage": ', usage_json(end.usage))
            parts += (b', "finish_reason": ', _encode(self._finish_reason or end.finish_reason))
            if self._origin:
                parts += (b", ", _encode(self._origin)[1:-1])
        parts.append(b"}")
        return b"".join(parts)

    def fail(self, error: ServiceError) -> bytes:
        """The last object: a sentence in place of the text."""
        return cumulative_error(error, **self._origin) + END

    def _add(self, items: Sequence[Item]) -> End | None:
        for item in items:
            if type(item) is str:
                self._object += _encode(item)[1:-1]
            elif type(item) is Piece:
                self._add_piece(item)
            elif type(item) is End:
                return item
            # What travels as payloads has no text beside it.
        return None

    def _add_piece(self, piece: Piece) -> None:
        if piece.replace_from is not None:
            self._cut(piece.replace_from)
        self._object += _encode(piece.text)[1:-1]
        if piece.logprobs is not None:
            append_logprobs(self._logprobs, piece.logprobs)
        self._finish_reason = piece.finish_reason or self._finish_reason

    def _cut(self, length: int) -> None:
        """Keep so many characters of the answer. It happens once a stream at most, at a stop string."""
        answer: str = msgspec.json.decode(b'"' + self._object[self._answer_from :] + b'"')
        self._object[self._answer_from :] = _encode(answer[:length])[1:-1]
