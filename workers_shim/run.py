"""One request on the engine's side: from the client's body to the last chunk, on whatever thread it was given.

Made by `execution`. It calls the user's function, hands every chunk to the stream, holds the engine while the stream
is full, stops it when nobody wants the rest, and turns every way in which that can end into one last word to the
stream. It knows nothing of the broker.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec

from broker_wire.messages import FailureKind, Usage
from workers_shim.engine_threads import SlotThread
from workers_shim.interruption import DeadlinePassedError, interruptible, writable
from workers_shim.replay import Diverged, Replay
from workers_shim.request import Cancelled, Chunk, Lost, RequestError, Unavailable
from workers_shim.request_body import parse_request
from workers_shim.resumption import NotResumableError, prepare_resume
from workers_shim.served_model import Chunks, ServedModel
from workers_shim.stream import Assignment, OutgoingStream

_log = logging.getLogger(__name__)

MAX_TEXT = 64 * 1024
"""Characters in one frame. A longer chunk is cut, so that a message stays far below the broker's limit."""
MAX_PAYLOAD = 8 * 1024 * 1024
"""Bytes. RabbitMQ 4.0 and later take messages of 16 MiB at most, and a payload cannot be cut."""
MAX_FAILURE = 2_000
"""Characters of an engine's exception that reach the client; all of it is in the log."""
MAX_NAME = 100
"""Characters of the code and the field that an engine names with it."""
BREATH = 32
"""Chunks that one stream may yield on a shared loop before the others have their turn."""
HOLD = 1.0
"""Seconds between two looks at the deadline while the engine is held."""

_DEADLINE_PASSED = "the request's deadline passed while it was generated"


class Run:
    """One attempt at one request: a job of `engine_threads`."""

    def __init__(self, assignment: Assignment, stream: OutgoingStream, model: ServedModel) -> None:
        self._assignment = assignment
        self._stream = stream
        self._model = model
        self._began = time.monotonic()
        self._replay: Replay | None = None
        self._finish_reason = "stop"
        self._usage: Usage | None = None

    def run(self, thread: SlotThread) -> None:
        """All of it, on a slot's thread."""
        error: BaseException | None = None
        try:
            items = self._call_engine()
            if isinstance(items, AsyncIterator):
                error = thread.run_coroutine(self._outcome(items, breath=0))
            else:
                self._forward(items)
        except BaseException as raised:  # noqa: BLE001 - engines raise anything, SystemExit too: it ends this request alone
            error = raised
        self._conclude(error)

    async def run_shared(self) -> None:
        """All of it, on a loop that other streams use, too."""
        try:
            items = self._call_engine()
        except BaseException as raised:  # noqa: BLE001 - as above
            self._conclude(raised)
        else:
            assert isinstance(items, AsyncIterator)  # noqa: S101 - `ServedModel.chunks` has seen to that
            self._conclude(await self._outcome(items, breath=BREATH))

    def released(self) -> None:
        """The slot is free."""
        self._stream.released()

    def _call_engine(self) -> Chunks:
        assignment = self._assignment
        if self._stream.cancelled:
            raise Cancelled
        request = parse_request(
            assignment.generate,
            deadline=assignment.deadline,
            suspect=assignment.suspect,
            link=self._stream,
            unchecked=self._model.unchecked,
        )
        if assignment.next_seq:
            self._replay = prepare_resume(assignment, self._model, request)
        return self._model.chunks(request)

    # --- chunks

    def _forward(self, items: Iterator[str | Chunk]) -> None:
        offer, deadline, monotonic = self._stream.offer, self._assignment.deadline, time.monotonic
        try:
            for item in items:
                # A plain token calls nothing but these: at full speed this line is most of what a worker does.
                if item.__class__ is str and self._replay is None and item.isascii() and 0 < len(item) <= MAX_TEXT:
                    ready = offer(item)
                else:
                    ready = self._put(item)
                if monotonic() >= deadline:
                    raise DeadlinePassedError
                if not ready:
                    self._hold()
        finally:
            close: Callable[[], object] | None = getattr(items, "close", None)
            if close is not None:
                with self._clean_up():
                    close()

    async def _outcome(self, items: AsyncIterator[str | Chunk], *, breath: int) -> BaseException | None:
        """What it ended with. It is returned, for a loop does not live on after some of them."""
        try:
            await self._forward_async(items, breath=breath)
        except BaseException as raised:  # noqa: BLE001 - as above
            return raised
        return None

    async def _forward_async(self, items: AsyncIterator[str | Chunk], *, breath: int) -> None:
        offer = self._stream.offer
        until_breath = breath
        try:
            with interruptible(self._stream, self._assignment.deadline) as interruption:
                async for item in items:
                    if item.__class__ is str and self._replay is None and item.isascii() and 0 < len(item) <= MAX_TEXT:
                        ready = offer(item)
                    else:
                        ready = self._put(item)
                    if interruption.expired:
                        raise DeadlinePassedError
                    if not ready:
                        await self._hold_async()
                    if breath:
                        until_breath -= 1
                        if not until_breath:
                            until_breath = breath
                            await asyncio.sleep(0)
        finally:
            close: Callable[[], Any] | None = getattr(items, "aclose", None)
            if close is not None:
                with self._clean_up():
                    await close()

    def _put(self, item: object) -> bool:
        """Any chunk but a plain token."""
        if not isinstance(item, str | Chunk):
            raise TypeError(f"model {self._model.name!r} yielded a {type(item).__name__}: yield str or Chunk")
        if self._replay is not None:
            rest = self._replay.rest_of(item)
            if self._replay.complete:
                self._replay = None
            if rest is None:
                # A chunk that is not offered has not noticed a cancel.
                return self._alive()
            item = rest
        if isinstance(item, str):
            return self._put_text(item) if item else self._alive()
        return self._put_chunk(item)

    def _put_text(self, text: str) -> bool:
        text = _encodable(text)
        writable = True
        for start in range(0, len(text), MAX_TEXT):
            writable = self._stream.offer(text[start : start + MAX_TEXT])
        return writable

    def _put_chunk(self, chunk: Chunk) -> bool:
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.finish_reason is not None and chunk.index == 0:
            self._finish_reason = chunk.finish_reason
        if chunk.payload is None and chunk.logprobs is None and chunk.index == 0 and chunk.replace_from is None:
            # Nothing but text and what the end says anyway.
            return self._put_text(chunk.text) if chunk.text else self._alive()
        if chunk.payload is not None and len(chunk.payload) > MAX_PAYLOAD:
            raise ValueError(f"a payload has {len(chunk.payload)} bytes, {MAX_PAYLOAD} can be carried")
        text, logprobs = _encodable(chunk.text), chunk.logprobs
        if logprobs is not None and not isinstance(logprobs, bytes):
            logprobs = msgspec.json.encode(logprobs)
        if logprobs is not chunk.logprobs or text is not chunk.text:
            chunk = msgspec.structs.replace(chunk, text=text, logprobs=logprobs)
        return self._stream.offer(chunk)

    def _alive(self) -> bool:
        """The engine works, although there is nothing to send."""
        if self._stream.cancelled:
            raise Cancelled
        self._stream.progress()
        return True

    # --- back-pressure and stopping

    def _hold(self) -> None:
        while not self._stream.wait_writable(HOLD):
            if time.monotonic() >= self._assignment.deadline:
                raise DeadlinePassedError
        if self._stream.cancelled:
            raise Cancelled

    async def _hold_async(self) -> None:
        """Ends by the deadline at the latest, for that interrupts the task."""
        await writable(self._stream)
        if self._stream.cancelled:
            raise Cancelled

    @contextlib.contextmanager
    def _clean_up(self) -> Iterator[None]:
        """The generator's own cleaning up must not hide how the request ended."""
        try:
            yield
        except BaseException:  # noqa: BLE001 - the engine's `finally` may raise anything
            _log.warning("engine failed while it was stopped %s", self._where(), exc_info=True)

    # --- the end

    def _conclude(self, error: BaseException | None) -> None:
        """The last word to the stream, exactly once."""
        stream = self._stream
        try:
            if error is None and self._replay is not None:
                self._replay.finish()
        except Diverged as diverged:
            error = diverged
        seconds = time.monotonic() - self._began
        if stream.cancelled:
            _log.info("request cancelled %s seconds=%.3f", self._where(), seconds)
            # The stream ignores what it says; but it has to be told that the engine has ended.
            stream.end("cancelled")
        elif error is None:
            stream.end(self._finish_reason, self._usage)
            _log.info("request finished %s reason=%s seconds=%.3f", self._where(), self._finish_reason, seconds)
        else:
            kind, message = self._failure(error)
            # Only what the engine raised is a bug to look for.
            trace = error if kind is FailureKind.ENGINE else None
            level = logging.ERROR if trace else logging.WARNING
            _log.log(level, "request failed %s kind=%s error=%r", self._where(), kind.value, message, exc_info=trace)
            named = {}
            if isinstance(error, RequestError):
                named = {"code": _encodable(error.code)[:MAX_NAME], "param": _encodable(error.param)[:MAX_NAME]}
            stream.fail(kind, message, **named)

    def _failure(self, error: BaseException) -> tuple[FailureKind, str]:
        match error:
            case RequestError():
                return FailureKind.REQUEST, _sentence(error)
            case Unavailable():
                return FailureKind.NOT_SERVED, _sentence(error)
            case Lost():
                return FailureKind.LOST, _sentence(error)
            case Diverged():
                return FailureKind.DIVERGED, _sentence(error)
            case NotResumableError():
                return FailureKind.NOT_RESUMABLE, _sentence(error)
            case DeadlinePassedError():
                return FailureKind.DEADLINE, _DEADLINE_PASSED
            case Cancelled() if time.monotonic() >= self._assignment.deadline:
                return FailureKind.DEADLINE, _DEADLINE_PASSED
            case _:
                return FailureKind.ENGINE, _sentence(error, with_type=True)

    def _where(self) -> str:
        generate = self._assignment.generate
        return f"request={generate.request_id} model={self._model.name} attempt={self._assignment.attempt}"


def _encodable(text: str) -> str:
    """Half a surrogate pair cannot be written as UTF-8, and would spoil the message that carries other streams, too."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def _sentence(error: BaseException, *, with_type: bool = False) -> str:
    text = str(error)
    if with_type:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return _encodable(text)[:MAX_FAILURE]
