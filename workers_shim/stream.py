"""Where the engine side of a worker meets its broker side: one request's assignment, and the way out for its answer.

The broker side (`session`, `intake`, `outbox`) implements `OutgoingStream` and `SlotGuard`; the engine side
(`execution`, `replay`) calls them from engine threads. Neither imports the other.
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from broker_wire.messages import Answered, FailureKind, Generate, Had, Question, Usage
from workers_shim.request import Chunk


class Assignment(Struct, frozen=True):
    """One attempt at one request, as the controller granted it.

    Attributes:
        attempt: the fencing token that every frame of this run carries.
        next_seq: number of the first frame that the controller still lacks.
        text, choices: what the client already has; go on after it.
        suspect: workers have died while they ran this request.
        deadline: on this process's monotonic clock, in seconds.
    """

    generate: Generate
    attempt: int
    next_seq: int
    text: str
    suspect: bool
    deadline: float
    choices: tuple[Had, ...] = ()


class OutgoingStream(Protocol):
    """The way out for one answer. Every method may be called from any thread, and none but `wait_writable` blocks."""

    @property
    def cancelled(self) -> bool:
        """True once nobody wants the rest: the client left, the deadline passed, another attempt counts."""

    def on_cancelled(self, callback: Callable[[], None]) -> None:
        """Call back once, from any thread; at once if it is so already."""

    def offer(self, item: str | Chunk) -> bool:
        """Append a chunk. False: hold the engine until writable (the buffer is above its mark, or the stream paused).

        Raises: Cancelled.
        """

    def wait_writable(self, timeout: float) -> bool:
        """Block this thread until the engine may go on or the stream is cancelled; False after `timeout` seconds."""

    def on_writable(self, callback: Callable[[], None]) -> None:
        """Call back once, from any thread, when the engine may go on or the stream is cancelled."""

    def progress(self) -> None:
        """The engine works, although it has nothing to show."""

    def end(self, finish_reason: str = "stop", usage: Usage | None = None) -> None:
        """The answer is complete. Exactly one of `end` and `fail` is called, last; after a cancel it is ignored."""

    def fail(self, kind: FailureKind, message: str, *, code: str = "", param: str = "") -> None:
        """The answer ends as an error. `code`, `param`: those of a `RequestError`."""

    def released(self) -> None:
        """The engine has really let go of its thread: only now is the slot free. Called exactly once, last of all."""


class Executor(Protocol):
    """What runs engines."""

    def start(self, assignment: Assignment, stream: OutgoingStream) -> None:
        """Begin, on a thread or loop of its own; never blocks, never raises: failures go to the stream."""


class EngineSide(Executor, Protocol):
    """All of what the broker side needs of it."""

    def ask(self, question: Question, reply: Callable[[Answered], None]) -> None:
        """Begin to answer a question, outside of the slots; never blocks, never raises. `reply`: from any thread."""
