"""Answers what is asked about a model beside requests: at once, however many requests run.

One thread for all questions of a worker, apart from the slots and from the broker's loop. A function that counts tokens
runs on it one call at a time; one that has to ask somebody else is a coroutine, of which several wait at a time.
Called by `execution`; it knows nothing of the broker.
"""

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

from broker_wire.messages import Answered, FailureKind, Question
from workers_shim.engine_threads import SharedLoop
from workers_shim.request import RequestError, Unavailable

_log = logging.getLogger(__name__)

MAX_OPEN = 64
"""Questions at a time. Who comes above that is told so at once, and asks another worker."""
MAX_MESSAGE = 2_000
"""Characters of the sentence that says why there is no answer."""

CountFunction = Callable[[str], int]
"""How many tokens a text has. Quick, and safe to call beside a generation."""

AnswerFunction = Callable[[Question], bytes | Awaitable[bytes]]
"""From a question the JSON that its client gets.

Raises: RequestError, for the question's own fault; Unavailable."""


class _CountBody(Struct):
    prompt: str


_read_count = msgspec.json.Decoder(_CountBody)


def counting(count: CountFunction) -> AnswerFunction:
    """The answer to FastChat's `/count_token`."""

    def answer(question: Question) -> bytes:
        try:
            prompt = _read_count.decode(question.body).prompt
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(f"the body of the question has not the right form: {error}") from error
        tokens = count(prompt)
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
            raise TypeError(f"count_tokens has to give a number of tokens, it gave {tokens!r:.40}")
        return msgspec.json.encode({"count": tokens, "error_code": 0})

    return answer


class QuestionDesk:
    """One a worker. `reply` is called exactly once for each question, from any thread."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(MAX_OPEN)
        self._loop: SharedLoop | None = None

    def ask(self, question: Question, function: AnswerFunction | None, reply: Callable[[Answered], None]) -> None:
        """Begin to answer; called from one thread only. `function` None: the worker does not answer this."""
        if function is None:
            reply(_refused(question, f"this worker does not tell {question.kind!r} of {question.model!r}"))
        elif not self._places.acquire(blocking=False):
            reply(_refused(question, f"this worker has {MAX_OPEN} questions to answer already"))
        else:
            if self._loop is None:
                self._loop = SharedLoop("questions")
            self._loop.start(_Answering(question, function, reply, self._places.release))

    def close(self, timeout: float) -> bool:
        """End the thread, waiting `timeout` seconds at most. False: a function has not come back."""
        return self._loop is None or self._loop.close(timeout)


def _refused(question: Question, text: str) -> Answered:
    return Answered(question.stream, failure=FailureKind.NOT_SERVED, message=text[:MAX_MESSAGE])


class _Answering:
    """One question, as a job of the loop."""

    def __init__(
        self,
        question: Question,
        function: AnswerFunction,
        reply: Callable[[Answered], None],
        released: Callable[[], None],
    ) -> None:
        self._question = question
        self._function = function
        self._reply = reply
        self.released = released

    async def run_shared(self) -> None:
        """Answer it."""
        self._reply(await self._answer())

    async def _answer(self) -> Answered:
        number = self._question.stream
        try:
            async with asyncio.timeout(self._question.remaining):
                answer = self._function(self._question)
                return Answered(number, await answer if inspect.isawaitable(answer) else answer)
        except RequestError as error:
            return self._failed(FailureKind.REQUEST, error)
        except (Unavailable, TimeoutError) as error:
            return self._failed(FailureKind.NOT_SERVED, error)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything, and its asker has to hear of it
            _log.warning(
                "question not answered kind=%s model=%s", self._question.kind, self._question.model, exc_info=error
            )
            return self._failed(FailureKind.ENGINE, error)

    def _failed(self, kind: FailureKind, error: Exception) -> Answered:
        text = (str(error) or type(error).__name__).encode(errors="replace").decode()
        return Answered(self._question.stream, failure=kind, message=text[:MAX_MESSAGE])
