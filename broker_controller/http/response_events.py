"""A response's events as server-sent events. Each has its number as its id, so that a client can go on after it."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from broker_controller.errors import ServiceError, client_text, code_of
from broker_controller.http.comments import CommentWriter
from broker_controller.responses.narrator import Event, Narrator
from broker_controller.streams import Item, one_by_one
from broker_wire.messages import End, Piece

_encode = msgspec.json.Encoder().encode


def encode_events(events: Iterable[Event]) -> bytes:
    """One after the other."""
    return b"".join(
        b"id: %d\nevent: %b\ndata: %b\n\n" % (event["sequence_number"], event["type"].encode(), _encode(event))
        for event in events
    )


def error_event(error: ServiceError, number: int) -> Event:
    """For a stream that cannot go on although its response may."""
    code, message = code_of(error), client_text(error)
    return {"type": "error", "sequence_number": number, "code": code, "message": message, "param": None}


class ResponseWriter(CommentWriter):
    """Writes the answer to the client that asked, as it comes. `tell` hears of the chunks before the client does."""

    comment_end = b"\n"
    # Once an event had an id, OpenAI's Python client takes an empty line for the end of an event, and reads its data.

    def __init__(self, narrator: Narrator, tell: Callable[[Sequence[str | Piece]], None]) -> None:
        self._narrator = narrator
        self._tell = tell
        self._unwritten = [*narrator.created(), *narrator.begun()]
        self.end: End | ServiceError | None = None

    def encode(self, items: Sequence[Item]) -> bytes:
        """Any number of events for each chunk."""
        chunks = one_by_one(items)
        self._pass_on(chunks)
        events, self._unwritten = self._unwritten, []
        return encode_events([*events, *self._narrator.tell(chunks)])

    def encode_whole(self, items: Sequence[str | Piece | End]) -> bytes:
        """The response alone."""
        self._pass_on(items)
        self._narrator.tell(items)
        return _encode(self._narrator.snapshot())

    def fail(self, error: ServiceError) -> bytes:
        """The event of a response that failed."""
        self.end = error
        events, self._unwritten = self._unwritten, []
        return encode_events([*events, *self._narrator.fail(error)])

    def _pass_on(self, items: Sequence[str | Piece | End]) -> None:
        last = items[-1] if items else None
        if isinstance(last, End):
            self.end = last
        self._tell([item for item in items if not isinstance(item, End)])
