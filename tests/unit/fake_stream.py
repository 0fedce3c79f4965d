"""A stand-in for the worker's broker side: keeps what the engine side offers, and stops it or holds it on demand."""

import threading
import time
from collections.abc import Callable

from broker_wire.messages import FailureKind, Generate, Had, Operation, ResumeMode, Usage
from workers_shim.request import Cancelled, Chunk
from workers_shim.stream import Assignment

PATIENCE = 90.0


class FakeStream:
    """`room` chunks are taken before `offer` asks the engine to wait; `make_room` lets it go on."""

    def __init__(self, room: int | None = None) -> None:
        self.items: list[str | Chunk] = []
        self.last_words: list[tuple[object, ...]] = []
        self.releases = 0
        self.progress_calls = 0
        self.named = ("", "")
        """The code and the field of a refusal."""
        self.room = room
        self.offered_after_false = 0
        self.over = threading.Event()
        self._cancelled = False
        self._changed = threading.Condition()
        self._on_cancelled: list[Callable[[], None]] = []
        self._on_writable: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def on_cancelled(self, callback: Callable[[], None]) -> None:
        with self._changed:
            if not self._cancelled:
                self._on_cancelled.append(callback)
                return
        callback()

    def offer(self, item: str | Chunk) -> bool:
        with self._changed:
            if self._cancelled:
                raise Cancelled
            if self.room is not None and self.room <= 0:
                self.offered_after_false += 1
            self.items.append(item)
            if self.room is not None:
                self.room -= 1
            self._changed.notify_all()
            return self._writable

    @property
    def _writable(self) -> bool:
        return self.room is None or self.room > 0 or self._cancelled

    def wait_writable(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._writable, timeout)

    def on_writable(self, callback: Callable[[], None]) -> None:
        with self._changed:
            if not self._writable:
                self._on_writable.append(callback)
                return
        callback()

    def progress(self) -> None:
        self.progress_calls += 1

    def end(self, finish_reason: str = "stop", usage: Usage | None = None) -> None:
        self.last_words.append(("end", finish_reason, usage))

    def fail(self, kind: FailureKind, message: str, *, code: str = "", param: str = "") -> None:
        self.last_words.append(("fail", kind, message))
        self.named = code, param

    def released(self) -> None:
        self.releases += 1
        self.over.set()

    # --- for the test

    @property
    def text(self) -> str:
        return "".join(item if isinstance(item, str) else item.text for item in self.items)

    @property
    def failure(self) -> tuple[FailureKind, str]:
        word, kind, message = self.last_words[0]
        assert word == "fail"
        assert isinstance(kind, FailureKind)
        assert isinstance(message, str)
        return kind, message

    def cancel(self) -> None:
        with self._changed:
            self._cancelled = True
            callbacks = self._on_cancelled + self._on_writable
            self._on_cancelled, self._on_writable = [], []
            self._changed.notify_all()
        for callback in callbacks:
            callback()

    def make_room(self, chunks: int) -> None:
        with self._changed:
            self.room = chunks
            callbacks, self._on_writable = self._on_writable, []
            self._changed.notify_all()
        for callback in callbacks:
            callback()

    def wait_for_items(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.items) >= count, PATIENCE), f"only {len(self.items)} chunks"

    def wait_over(self) -> None:
        assert self.over.wait(PATIENCE), "the engine has not come back"


def assignment(
    model: str = "m",
    *,
    body: bytes = b'{"prompt": "one two three"}',
    operation: Operation = Operation.COMPLETION,
    text: str = "",
    next_seq: int | None = None,
    seconds: float = 600.0,
    choices: tuple[Had, ...] = (),
    resume: ResumeMode | None = None,
) -> Assignment:
    generate = Generate("controller", 1, 1, "request-1", model, operation, seconds, body, resume=resume)
    seq = (1 if text or choices else 0) if next_seq is None else next_seq
    return Assignment(generate, 1, seq, text, False, time.monotonic() + seconds, choices)
