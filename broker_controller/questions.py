"""What is asked about a model beside requests: FastChat's context length, token counts and conversation templates.

What workers have announced is answered from that. The rest is asked of a live worker, which answers outside of its
slots: however many requests wait, nobody waits behind them for a count. Used by the HTTP surfaces; `reply_reader`
brings the answers.
"""

import asyncio
import logging
import random
from collections.abc import Callable

import msgspec
from msgspec import Struct

from broker_controller.door import Door
from broker_controller.errors import (
    RETRY_AFTER,
    DeadlineError,
    EngineError,
    EngineRefusedError,
    ModelNotFoundError,
    NotToldError,
    OverloadedError,
    RequestTooLargeError,
    ServiceError,
    WorkerNotFoundError,
)
from broker_controller.inflight_bytes import InflightBytes
from broker_controller.links import Links
from broker_controller.registry import Registry
from broker_controller.worker_record import WorkerRecord
from broker_wire.amqp.channel import Outcome
from broker_wire.errors import MessageTooLargeError
from broker_wire.messages import Answered, FailureKind, ModelCard, Question, QuestionKind

_log = logging.getLogger(__name__)

ANSWER_TIME = 4.0
"""Seconds that a worker has; it takes milliseconds. Two of them fit into ten, after which LLaVA's clients give up."""
TRIES = 2
"""Workers that are asked at most."""
MAX_OPEN = 1_000
"""Questions of one controller at a time."""

WORDS = {
    QuestionKind.COUNT_TOKENS: "count tokens",
    QuestionKind.CONTEXT_LENGTH: "tell the model's context length",
    QuestionKind.CONVERSATION: "tell the model's conversation template",
}


class _Asked(Struct, frozen=True):
    """What a client asks."""

    kind: QuestionKind
    model: str
    body: bytes
    hops: int


class Questions:
    """One a controller process."""

    def __init__(
        self,
        controller_id: str,
        links: Links,
        registry: Registry,
        *,
        door: Door,
        inflight: InflightBytes,
        watched: Callable[[], float],
        next_number: Callable[[], int],
    ) -> None:
        """`next_number`: of the numbers of requests, so that no answer is taken for a frame of one."""
        self._controller_id = controller_id
        self._links = links
        self._registry = registry
        self._door = door
        self._inflight = inflight
        self._watched = watched
        self._next_number = next_number
        self._open: dict[int, asyncio.Future[Answered | None]] = {}

    async def ask(self, kind: QuestionKind, model: str, body: bytes, worker: str | None = None, hops: int = 0) -> bytes:
        """The JSON of the answer.

        Args:
            body: the client's, for the worker that is asked.
            worker: the only one that may be asked; None for any that serves the model.
            hops: controllers that it came through before this one.

        Raises: ServiceError.
        """
        serving = self._serving(model, worker)
        for record in serving:
            told = _told(kind, record.card(model))
            if told is not None:
                return told
        askable = [record for record in serving if record.instance and kind in record.card(model).answers]
        if askable:
            return await self._ask_one_of(askable, _Asked(kind, model, body, hops))
        if kind is QuestionKind.CONTEXT_LENGTH:
            # As a FastChat worker that does not know.
            return _context_length(None)
        raise NotToldError(f"no worker of this model can {WORDS[kind]}")

    def on_answer(self, answer: Answered) -> None:
        """A worker's. Late ones are of no use any more."""
        waiting = self._open.get(answer.stream)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _serving(self, model: str, worker: str | None) -> list[WorkerRecord]:
        """In any order, so that all are asked alike. Raises: ModelNotFoundError, WorkerNotFoundError."""
        if worker is None:
            serving = self._registry.workers_for(model, self._watched())
            if not serving:
                served = ", ".join(sorted(self._registry.models())) or "none"
                raise ModelNotFoundError(f"no worker serves it; served now: {served}")
            return random.sample(serving, len(serving))
        record = self._registry.get(worker)
        if record is None or not record.state.live:
            raise WorkerNotFoundError(f"there is no worker {worker!r}")
        if model not in record.model_names:
            served = ", ".join(sorted(record.model_names)) or "none"
            raise ModelNotFoundError(f"worker {worker!r} does not serve the model; its models: {served}")
        return [record]

    async def _ask_one_of(self, records: list[WorkerRecord], asked: _Asked) -> bytes:
        self._door.check(len(asked.body))
        if not self._links.up:
            raise self._door.broker_unavailable()
        if len(self._open) >= MAX_OPEN:
            text = f"it was not asked: {MAX_OPEN} questions wait for an answer already"
            raise OverloadedError(text, retry_after=RETRY_AFTER)
        error: ServiceError | None = None
        self._inflight.add(len(asked.body))
        try:
            for record in records[:TRIES]:
                answer = await self._ask(record, asked)
                if answer is not None and answer.failure is None:
                    return answer.body
                error = _failure(record, answer)
                _log.warning("question not answered kind=%s model=%s reason=%s", asked.kind, asked.model, error)
                if isinstance(error, EngineRefusedError):
                    break
        finally:
            self._inflight.add(-len(asked.body))
        raise error or NotToldError(f"no worker of this model can {WORDS[asked.kind]}")

    async def _ask(self, record: WorkerRecord, asked: _Asked) -> Answered | None:
        """None: it did not answer in time, or is gone. Raises: RequestTooLargeError."""
        number = self._next_number()
        waiting = self._open[number] = asyncio.get_running_loop().create_future()

        def on_sent(outcome: Outcome) -> None:
            if outcome is not Outcome.CONFIRMED and not waiting.done():
                waiting.set_result(None)

        question = Question(self._controller_id, number, asked.kind, asked.model, ANSWER_TIME, asked.body, asked.hops)
        try:
            self._links.send_control(self._links.topology.instance_key(record.instance), question, on_sent)
            return await asyncio.wait_for(waiting, ANSWER_TIME)
        except TimeoutError:
            return None
        except MessageTooLargeError as error:
            raise RequestTooLargeError(str(error)) from error
        finally:
            del self._open[number]


def _told(kind: QuestionKind, card: ModelCard) -> bytes | None:
    """What the worker has announced."""
    if kind is QuestionKind.CONTEXT_LENGTH and card.context_length is not None:
        return _context_length(card.context_length)
    if kind is QuestionKind.CONVERSATION and card.conversation:
        return b'{"conv":%b}' % card.conversation
    return None


def _context_length(tokens: int | None) -> bytes:
    return msgspec.json.encode({"context_length": tokens})


def _failure(record: WorkerRecord, answer: Answered | None) -> ServiceError:
    if answer is None:
        return DeadlineError(f"worker {record.name!r} has not answered within {ANSWER_TIME:g} s")
    text = f"worker {record.name!r} says: {answer.message}"
    return EngineRefusedError(text) if answer.failure is FailureKind.REQUEST else EngineError(text)
