"""One response in the background, run by this controller: from its first word in the log to its end.

Used by `runner`, which holds the job.
"""

import asyncio
import logging
import time
from contextlib import suppress
from enum import Enum, auto

import msgspec

from broker_controller.errors import (
    AnswerTooLargeError,
    BrokerUnavailableError,
    DeadlineError,
    InternalError,
    OverloadedError,
    QueueFullError,
    ServiceError,
    ShuttingDownError,
    Subject,
)
from broker_controller.gateway import Gateway
from broker_controller.request_sender import Submission
from broker_controller.responses.chat import chat_body
from broker_controller.responses.log import ResponseLog
from broker_controller.responses.records import failed, size_of
from broker_controller.responses.shelf import Kept
from broker_controller.session_key import read_session
from broker_controller.streams import GenerationStream, one_by_one
from broker_wire.messages import Begun, End, Ended, Left, Operation, Piece, Said, Sent

_log = logging.getLogger(__name__)

FLUSH_INTERVAL = 0.05
"""Seconds for which chunks are collected before they are written."""
LOOK_INTERVAL = 1.0
_LATER = (QueueFullError, OverloadedError, BrokerUnavailableError)
"""What a response waits out: its client has been told that it will be done."""


class RunEnd(Enum):
    """How it ended here."""

    OVER = auto()
    TAKEN_OVER = auto()
    """Another controller runs it now."""
    HANDED_OVER = auto()
    """This controller leaves."""


class Run:
    """Made for each time that this controller takes it up."""

    def __init__(self, gateway: Gateway, log: ResponseLog, kept: Kept, max_bytes: int, *, reads_sessions: bool) -> None:
        self._gateway = gateway
        self._log = log
        self._kept = kept
        self._id = kept.created.id
        self._max_bytes = max_bytes
        self._reads_sessions = reads_sessions
        self._epoch = kept.epoch + 1
        self._before = self._written = len(kept.items)
        """Chunks that another run had written, and with ours."""
        self._left = False
        self._stream: GenerationStream | None = None
        self._changed = asyncio.Event()

    def hand_over(self) -> None:
        """This controller leaves: stop, and let another go on."""
        self._left = True
        self._on_change()

    async def go(self) -> RunEnd:
        """Run it."""
        self._kept.on_change.append(self._on_change)
        try:
            await self._run()
            return await self._last_word()
        finally:
            self._kept.on_change.remove(self._on_change)

    # --- inside

    async def _run(self) -> None:
        kept = self._kept
        try:
            self._log.note(Begun(self._id, self._epoch))
            while not (kept.over or kept.epoch >= self._epoch):
                await self._news()
            if self._ours:
                await self._answer()
        except ServiceError as error:
            self._end_with(error.about(Subject(self._id, str(kept.fields["model"]))))
        except Exception:  # noqa: BLE001  a fault in one response must not leave it without an end
            _log.exception("a response was given up for a fault of ours response=%s", self._id)
            self._end_with(InternalError("it was given up: this controller has a bug", subject=Subject(self._id)))
        finally:
            if self._stream is not None:
                self._stream.cancel()

    @property
    def _ours(self) -> bool:
        return self._kept.is_run_by(self._log.controller_id, self._epoch)

    @property
    def _is_unwanted(self) -> bool:
        return self._left or self._kept.cancel_asked or not self._ours

    def _on_change(self) -> None:
        self._changed.set()
        if self._stream is not None and self._is_unwanted:
            self._stream.notice()

    async def _news(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _answer(self) -> None:
        """Raises: ServiceError."""
        while True:
            try:
                await self._answer_once()
            except _LATER as error:
                if self._written > self._before:
                    raise
                _log.info("a response waits response=%s reason=%s", self._id, error)
                await self._wait_out(error.retry_after or LOOK_INTERVAL)
            else:
                return

    async def _answer_once(self) -> None:
        """Raises: ServiceError."""
        if self._is_to_end():
            return
        submission = self._submission()
        # What another run had under way may have come since this one was made.
        self._before = self._written = len(submission.had)
        stream = self._stream = await self._gateway.submit(submission)
        self._log.note(Sent(self._id, self._epoch, stream.life.stream))
        end: End | None = None
        while end is None and not self._is_to_end():
            if self._log.congested:
                # What is not taken holds the engine in the end.
                await asyncio.sleep(FLUSH_INTERVAL)
            elif await stream.wait(LOOK_INTERVAL):
                end = self._write(one_by_one(stream.take()))
                if end is None:
                    await self._pause(FLUSH_INTERVAL)
        if end is not None:
            ended = Ended(self._id, self._epoch, time.time(), end=end)
            self._log.note(ended, size_of(ended))

    def _is_to_end(self) -> bool:
        """It is another's, or we leave, or nobody wants it: then that is written."""
        if self._left or not self._ours:
            return True
        if self._kept.cancel_asked:
            self._log.note(Ended(self._id, self._epoch, time.time(), "cancelled"))
            return True
        return False

    async def _wait_out(self, seconds: float) -> None:
        """So long, or until it is to end: that our own records come back from the log is no reason to ask again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._is_unwanted:
                    await self._news()

    async def _pause(self, seconds: float) -> None:
        """So long, or until there is news of the response."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news()

    def _write(self, items: list[str | Piece | End]) -> End | None:
        """Returns the end, if it is there. Raises: AnswerTooLargeError."""
        end = items[-1]
        said = [item for item in items if not isinstance(item, End)]
        if said:
            record = Said(self._id, self._epoch, self._written, said)
            self._written += len(said)
            self._log.note(record, size_of(record))
        if self._kept.size > self._max_bytes:
            raise AnswerTooLargeError(f"its answer is larger than what is kept of one, {self._max_bytes} bytes")
        return end if isinstance(end, End) else None

    def _submission(self) -> Submission:
        """Raises: DeadlineError."""
        kept, fields = self._kept, self._kept.fields
        left = kept.created.at + kept.created.within - time.time()
        if left <= 0:
            raise DeadlineError(f"its time of {kept.created.within:g} s was up")
        model = fields["model"]
        body = chat_body(self._id, fields, msgspec.json.decode(kept.created.items))
        return Submission(
            model=model,
            operation=Operation.CHAT,
            body=body,
            request_id=self._id,
            timeout=left,
            had=tuple(kept.items),
            session=read_session(model, body, None) if self._reads_sessions else None,
        )

    def _end_with(self, error: ServiceError) -> None:
        if isinstance(error, ShuttingDownError):
            self._left = True
            return
        self._log.note(failed(self._id, self._epoch, error, time.time()))

    async def _last_word(self) -> RunEnd:
        """Until the log has it that we are done."""
        if self._left and self._ours:
            self._log.note(Left(self._id, self._epoch))
        while self._ours:
            await self._news()
        if self._kept.over:
            return RunEnd.OVER
        return RunEnd.HANDED_OVER if self._left else RunEnd.TAKEN_OVER
