"""The way out for one answer: chunks come in from an engine's thread, numbered frames go out on the broker's loop.

The engine side calls the methods of `stream.OutgoingStream`; `outbox` takes the frames, and tells what became of them.
A stream has one producer: its engine. Between the two threads there are only a deque, two counters that have one
writer each, and flags; a lock is taken only when the engine has to wait. It knows nothing of AMQP.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from broker_wire.messages import Failed, FailureKind, Payloads, Progress, Texts, Usage
from workers_shim.answer_frames import ITEM_BYTES, Last, bare_payload, frame_of, size_of
from workers_shim.request import Cancelled, Chunk
from workers_shim.retention import Retention, Sent

STREAM_BUFFER_BYTES = 256 * 1024
"""Above this an engine is asked to wait. Counted in characters, of which UTF-8 may need four bytes each."""
RETAINED_BYTES = 4 * 1024 * 1024
"""Sent frames kept for one stream, in case the controller did not get them."""
PROGRESS_INTERVAL = 1.0
"""Seconds between two frames that say no more than "it works"."""


class Outgoing:
    """One attempt at one answer.

    Args:
        ready: called from any thread when there is something to take. Called once until the next `take`.
        released: called from any thread when the engine's thread has come back.
    """

    def __init__(
        self,
        controller: str,
        stream: int,
        attempt: int,
        next_seq: int,
        *,
        ready: "Callable[[Outgoing], None]",
        released: "Callable[[Outgoing], None]",
        buffer_bytes: int = STREAM_BUFFER_BYTES,
        retained_bytes: int = RETAINED_BYTES,
    ) -> None:
        self.controller = controller
        self.stream = stream
        self.attempt = attempt
        self.next_seq = next_seq
        self.ended = False
        """The last frame has been taken."""
        self.dropped = False
        self.retention = Retention(next_seq, retained_bytes)
        self._ready = ready
        self._tell_released = released
        self._marked = False
        self._items: deque[str | Chunk | Last] = deque()
        self._buffer_bytes = buffer_bytes
        self._offered = 0
        self._taken = 0
        self._paused = False
        self._held = False
        self._closed = False
        self._cancelled = False
        self._progress_due = False
        self._progress_at = 0.0
        self._lock = threading.Lock()
        self._cancel_callbacks: list[Callable[[], None]] = []
        self._write_callbacks: list[Callable[[], None]] = []

    # --- called by the engine's side, from any thread

    @property
    def cancelled(self) -> bool:
        """True once nobody wants the rest."""
        return self._cancelled

    def on_cancelled(self, callback: Callable[[], None]) -> None:
        """Call back once, from any thread; at once if it is so already."""
        with self._lock:
            if not self._cancelled:
                self._cancel_callbacks.append(callback)
                return
        callback()

    def offer(self, item: str | Chunk) -> bool:
        """Append a chunk. False: hold the engine until writable.

        Raises: Cancelled.
        """
        if self._cancelled:
            raise Cancelled
        self._items.append(item)
        self._offered += size_of(item)
        self._mark()
        return self._writable()

    def wait_writable(self, timeout: float) -> bool:
        """Block this thread until the engine may go on or the stream is cancelled; False after `timeout` seconds."""
        if self._cancelled or self._writable():
            return True
        woken = threading.Event()
        self.on_writable(woken.set)
        if woken.wait(timeout):
            return True
        with self._lock:
            if woken.set in self._write_callbacks:
                self._write_callbacks.remove(woken.set)
        return woken.is_set()

    def on_writable(self, callback: Callable[[], None]) -> None:
        """Call back once, from any thread, when the engine may go on or the stream is cancelled."""
        with self._lock:
            self._write_callbacks.append(callback)
        # Looked at after the callback is in the list: whoever opens the way after this look finds it there.
        self._wake_writers()

    def progress(self) -> None:
        """The engine works, although it has nothing to show."""
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_INTERVAL:
            self._progress_at = now
            self._progress_due = True
            self._mark()

    def end(self, finish_reason: str = "stop", usage: Usage | None = None) -> None:
        """The answer is complete."""
        self._close(Last(finish_reason, usage))

    def fail(self, kind: FailureKind, message: str, *, code: str = "", param: str = "") -> None:
        """The answer ends as an error. `code`, `param`: those of a `RequestError`."""
        self._close(Last(failure=kind, message=message, code=code, param=param))

    def released(self) -> None:
        """The engine's thread has come back."""
        self._tell_released(self)

    # --- called by the outbox, on the broker's loop

    @property
    def settled(self) -> bool:
        """The last frame and all before it are confirmed: the request may be acked."""
        return self.ended and self.retention.open == 0

    @property
    def holding(self) -> bool:
        """Whether nobody receives it for now."""
        return self._held

    def take(self) -> tuple[list[Sent], Progress | None]:
        """The frames to send now: first those that are known not to have arrived, then what is new, in order."""
        self._marked = False
        if self.dropped:
            return [], None
        taken = self.retention.take_unsent() if self.retention.has_unsent else []
        if self._items:
            self._take_new(taken)
            if self._write_callbacks:
                self._wake_writers()
        progress = None
        if self._progress_due:
            self._progress_due = False
            if not taken:
                progress = Progress(self.stream, self.attempt)
        return taken, progress

    def resend_from(self, seq: int) -> bool:
        """Send again from this number on. False: it is not kept any more, or was never here."""
        if seq > self.next_seq or not self.retention.unsend_from(seq):
            return False
        self.wake()
        return True

    def replace_by_failure(self, sent: Sent, kind: FailureKind, message: str) -> None:
        """This frame cannot be sent at all: the answer ends here, as an error."""
        self._closed = self.ended = True
        self._items.clear()
        self.retention.cut_at(sent)
        failed = Failed(self.stream, self.attempt, sent.frame.seq, kind, message)
        self.next_seq = failed.seq + 1
        self.retention.unsend(self.retention.keep(failed, len(message)))
        self._cancel()
        self._mark()

    def pause(self, paused: bool) -> None:
        """The client reads too slowly, or has caught up."""
        self._paused = paused
        self._wake_writers()

    def hold(self, held: bool) -> None:
        """Nobody receives this for now, or somebody does again."""
        self._held = held
        self._wake_writers()

    def wake(self) -> None:
        """Ask to be taken, if there is anything to take."""
        if self._items or self._progress_due or self.retention.has_unsent:
            self._mark()

    def unmark(self) -> None:
        """It was not taken: whoever asks next is heard again."""
        self._marked = False

    def drop(self) -> None:
        """Nobody wants any of it: stop the engine, keep nothing."""
        self.dropped = self._closed = True
        self._items.clear()
        self.retention.clear()
        self._cancel()

    # --- inside

    def _mark(self) -> None:
        # The flag is cleared before the items are taken, so what comes in between is either taken or marked again.
        if not self._marked:
            self._marked = True
            self._ready(self)

    def _writable(self) -> bool:
        return not (self._paused or self._held) and self._offered - self._taken < self._buffer_bytes

    def _wake_writers(self) -> None:
        if not self._write_callbacks or not (self._cancelled or self._writable()):
            return
        with self._lock:
            callbacks, self._write_callbacks = self._write_callbacks, []
        for callback in callbacks:
            callback()

    def _cancel(self) -> None:
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            callbacks, self._cancel_callbacks = self._cancel_callbacks, []
        for callback in callbacks:
            callback()
        self._wake_writers()

    def _close(self, last: Last) -> None:
        if not (self._closed or self._cancelled):
            self._closed = True
            self._items.append(last)
            self._mark()

    def _take_new(self, taken: list[Sent]) -> None:
        items = self._items
        texts: list[str] = []
        payloads: list[bytes] = []
        # As many as there are now: an engine that is faster than this loop must not keep it here.
        for _ in range(len(items)):
            item = items.popleft()
            if isinstance(item, str):
                if payloads:
                    payloads = self._keep_payloads(payloads, taken)
                texts.append(item)
                continue
            if texts:
                texts = self._keep_texts(texts, taken)
            if (payload := bare_payload(item)) is not None:
                payloads.append(payload)
                continue
            if payloads:
                payloads = self._keep_payloads(payloads, taken)
            taken.append(self._keep_other(item))
        if texts:
            self._keep_texts(texts, taken)
        elif payloads:
            self._keep_payloads(payloads, taken)

    def _keep_texts(self, texts: list[str], taken: list[Sent]) -> list[str]:
        """Returns the next, empty list, as does the other one."""
        self._keep_run(Texts(self.stream, self.attempt, self.next_seq, texts), texts, taken)
        return []

    def _keep_payloads(self, payloads: list[bytes], taken: list[Sent]) -> list[bytes]:
        self._keep_run(Payloads(self.stream, self.attempt, self.next_seq, payloads), payloads, taken)
        return []

    def _keep_run(self, frame: Texts | Payloads, chunks: list[str] | list[bytes], taken: list[Sent]) -> None:
        size = sum(map(len, chunks)) + len(chunks) * ITEM_BYTES
        taken.append(self.retention.keep(frame, size))
        self.next_seq += len(chunks)
        self._taken += size

    def _keep_other(self, item: Chunk | Last) -> Sent:
        size = size_of(item)
        sent = self.retention.keep(frame_of(item, self.stream, self.attempt, self.next_seq), size)
        self.next_seq += 1
        if isinstance(item, Chunk):
            self._taken += size
        else:
            self.ended = True
        return sent
