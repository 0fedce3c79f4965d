"""What a protocol has to be able to write of a streamed answer, and what is said beside the answer itself.

`streaming` writes with it; `events` and `cumulative` are the two that there are.
"""

from collections.abc import Sequence
from typing import Protocol

from broker_controller.decisions import Stage
from broker_controller.errors import ServiceError
from broker_controller.forecast import Outlook
from broker_controller.streams import GenerationStream, Item, StartInfo


class AnswerWriter(Protocol):
    """A protocol's way to write a streamed answer.

    Attributes:
        content_type: of the answer.
        hold: seconds for which the status waits for the first chunk, so that it is a real one.
        bytes_per_second: no faster, where each write repeats what came before; None where it does not.
    """

    content_type: bytes
    hold: float

    @property
    def bytes_per_second(self) -> int | None: ...

    def keepalive(self, outlook: Outlook | None) -> bytes:
        """Bytes that clients skip, for an answer that waits; `outlook` where it waits in a queue."""

    def leaves(self, worker: str) -> bytes:
        """Bytes that clients skip: this worker is lost, or was given up, and the answer will go on elsewhere."""

    def goes_on(self, start: StartInfo) -> bytes:
        """Bytes that clients skip: the answer has another worker now."""

    def came_from(self, start: StartInfo) -> bytes:
        """Bytes that clients skip, before the last of `encode` or `fail`, for what the headers do not say."""

    def encode(self, items: Sequence[Item]) -> bytes:
        """What to send for these; the last of all is an `End`."""

    def fail(self, error: ServiceError) -> bytes:
        """The end of an answer that went wrong after its status was sent."""


class SideNotes:
    """What a client hears beside its answer. Made when the headers go out; asked only where no chunk has come."""

    def __init__(self, stream: GenerationStream, writer: AnswerWriter) -> None:
        self._stream = stream
        self._writer = writer
        self._in_headers = stream.start
        self._attempts_told = 1 if self._in_headers is None else self._in_headers.attempts

    def now(self) -> bytes:
        """A sign of life, and what is new: its place in the queue, or a move."""
        stream, writer = self._stream, self._writer
        start = stream.start
        if start is not None and stream.life.is_without_worker:
            return writer.leaves(start.worker)
        if start is not None and start.attempts > self._attempts_told:
            self._attempts_told = start.attempts
            return writer.goes_on(start)
        return writer.keepalive(stream.outlook if stream.life.stage is Stage.WAITING else None)

    def last(self) -> bytes:
        """Who gave the answer, where the headers do not say it or say what is no longer so."""
        start = self._stream.start
        return b"" if start is None or start == self._in_headers else self._writer.came_from(start)
