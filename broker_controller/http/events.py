"""OpenAI's streams as server-sent events: `data: <chunk>` and an empty line each, `[DONE]` at the end.

What is the same in all chunks of an answer is put together once; for a chunk of plain text only its text is encoded.
"""

import time
from collections.abc import Sequence

import msgspec

from broker_controller.errors import ServiceError
from broker_controller.http.comments import CommentWriter
from broker_controller.http.errors import openai_error
from broker_controller.http.foreign import ForeignChunks
from broker_controller.http.ids import hex_id
from broker_controller.http.shapes import CHAT, COMPLETION, Shape
from broker_controller.streams import Item
from broker_wire.messages import End, Payloads, Piece, Usage

_encode = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"

_TAIL = {False: b"]}\n\n", True: b'],"usage":null}\n\n'}
"""By whether the client wants to know the usage."""
_AROUND_TEXT = {
    (shape.chunk_kind, usage): (b'{"index":0,' + shape.before, shape.after + b',"finish_reason":null}' + _TAIL[usage])
    for shape in (CHAT, COMPLETION)
    for usage in (False, True)
}
"""Of a chunk of plain text of the first choice: what is the same in all answers."""


class EventWriter(CommentWriter):
    """Writes one answer. `include_usage` as in the client's `stream_options`."""

    def __init__(self, shape: Shape, model: str, *, include_usage: bool) -> None:
        head = {
            "id": shape.id_prefix + hex_id(24),
            "object": shape.chunk_kind,
            "created": int(time.time()),
            "model": model,
        }
        self._shape = shape
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._include_usage = include_usage
        self._tail = _TAIL[include_usage]
        self._before_text, self._after_text = _AROUND_TEXT[shape.chunk_kind, include_usage]
        # Lists: of one choice they are a third of what sets are.
        self._open: list[int] = []
        """Choices that have begun."""
        self._ended: list[int] = []
        self._foreign: ForeignChunks | None = None
        """The engine writes the chunks itself: role, end and usage are in its own."""

    def encode(self, items: Sequence[Item]) -> bytes:
        """One event for each chunk: clients count them."""
        parts: list[bytes] = []
        head, before, after = self._head, self._before_text, self._after_text
        for item in items:
            if type(item) is str:
                if 0 not in self._open:
                    self._begin(0, parts)
                parts += (head, before, _encode(item), after)
            elif type(item) is Payloads:
                self._add_payloads(item.payloads, item.attempt, parts)
            elif type(item) is Piece:
                self._add_piece(item, parts)
            elif type(item) is End:
                self._add_end(item, parts)
        return b"".join(parts)

    def fail(self, error: ServiceError) -> bytes:
        """An event that clients raise as an exception; then the end, for those that wait for it."""
        return b"data: " + openai_error(error) + b"\n\n" + DONE

    def _begin(self, index: int, parts: list[bytes]) -> None:
        self._open.append(index)
        if self._shape.opening:
            parts.append(self._event(index, self._shape.opening, None, None))

    def _add_payloads(self, payloads: list[bytes], attempt: int, parts: list[bytes]) -> None:
        if self._foreign is None:
            self._foreign = ForeignChunks(payloads[0], attempt)
        parts += (b"data: ", self._foreign.pass_on(payloads, attempt), b"\n\n")

    def _add_piece(self, piece: Piece, parts: list[bytes]) -> None:
        if piece.payload is not None:
            self._add_payloads([piece.payload], piece.attempt, parts)
            return
        if piece.index not in self._open:
            self._begin(piece.index, parts)
        # Text that is with the client cannot be taken back: of a `replace_from` only the new text can be sent.
        content = self._shape.before + _encode(piece.text) + self._shape.after if piece.text else self._shape.empty
        parts.append(self._event(piece.index, content, piece.logprobs, piece.finish_reason))
        if piece.finish_reason is not None:
            self._ended.append(piece.index)

    def _add_end(self, end: End, parts: list[bytes]) -> None:
        if self._foreign is not None:
            if not self._foreign.ended:
                last = self._event(0, self._shape.empty, None, end.finish_reason)
                parts.append(self._as_foreign(self._foreign, last))
            if self._include_usage and end.usage is not None and not self._foreign.counted:
                parts.append(self._as_foreign(self._foreign, self._counts(end.usage)))
        else:
            if 0 not in self._open:
                self._begin(0, parts)
            unended = sorted(set(self._open) - set(self._ended))
            parts += [self._event(index, self._shape.empty, None, end.finish_reason) for index in unended]
            if self._include_usage and end.usage is not None:
                parts.append(self._counts(end.usage))
        parts.append(DONE)

    def _counts(self, usage: Usage) -> bytes:
        return b'%b],"usage":%b}\n\n' % (self._head, usage_json(usage))

    @staticmethod
    def _as_foreign(foreign: ForeignChunks, event: bytes) -> bytes:
        return b"data: %b\n\n" % foreign.with_first_identity(event[len(b"data: ") :].strip())

    def _event(self, index: int, content: bytes, logprobs: bytes | None, finish_reason: str | None) -> bytes:
        measured = b"" if logprobs is None else b',"logprobs":' + logprobs
        return b'%b{"index":%d,%b%b,"finish_reason":%b}%b' % (
            self._head,
            index,
            content,
            measured,
            _encode(finish_reason),
            self._tail,
        )


def usage_json(usage: Usage) -> bytes:
    """Token counts, as OpenAI and FastChat write them."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (prompt, completion, prompt + completion)
