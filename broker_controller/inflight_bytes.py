"""The bytes that a controller holds for all its requests, and their bound.

Counted are bodies, from the first byte that comes in; what is kept of answers; and what clients have not yet read of
answers that are complete. `gateway` tells of requests that come and go, `reply_reader` of what is added to an answer,
the HTTP surfaces of bodies.
"""

import contextlib
from collections.abc import Callable, Iterator

from broker_controller.errors import RETRY_AFTER, OverloadedError
from broker_controller.streams import GenerationStream

SMALL_BODY = 64 * 1024
"""Bytes that are read of any body, however much is held: heartbeats are no load."""


class InflightBytes:
    """One a controller process."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes that may be held before whoever comes is refused."""
        self._limit = limit
        self._held = 0
        self._unread: list[GenerationStream] = []
        """Answers that are complete here, and that their clients still have to read."""
        self._unread_bytes = 0

    @property
    def total(self) -> int:
        """Bytes held; of complete answers, as of the last `look_at_readers`."""
        return self._held + self._unread_bytes

    def add(self, size: int) -> None:
        """More bytes are kept for a request."""
        self._held += size

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Callable[[int], None]]:
        """While a request's body comes in: what it gives has to be told how many bytes have come.

        Raises: OverloadedError, where it is told.
        """
        size = 0

        def count(more: int) -> None:
            nonlocal size
            if size + more > SMALL_BODY:
                self.refuse_if_full(more)
            size += more
            self._held += more

        try:
            yield count
        finally:
            self._held -= size

    def refuse_if_full(self, more: int) -> None:
        """Whether so many bytes more may be held. Raises: OverloadedError."""
        if self.total + more > self._limit:
            text = (
                f"it was not taken: this controller holds {self.total} bytes of requests and answers, "
                f"and may hold {self._limit}"
            )
            raise OverloadedError(text, retry_after=RETRY_AFTER)

    def on_taken(self, stream: GenerationStream, size: int) -> None:
        """A request with a body of so many bytes."""
        stream.kept_bytes = size
        self._held += size

    def on_closed(self, stream: GenerationStream) -> None:
        """Nothing is kept of it any more, but for what its client has not read."""
        self._held -= stream.kept_bytes
        if stream.unread:
            self._unread.append(stream)
            self._unread_bytes += stream.unread

    def look_at_readers(self) -> None:
        """See what clients have read since."""
        self._unread = [stream for stream in self._unread if stream.unread]
        self._unread_bytes = sum(stream.unread for stream in self._unread)
