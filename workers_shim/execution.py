"""Where engines run: gives each request a slot's thread, or a place on its model's shared loop or the broker's.

The executor of the worker's broker side. It knows which function serves which model, and nothing of the broker.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from broker_wire.messages import Answered, FailureKind, ModelCard, Question
from workers_shim.broker_loop_jobs import BrokerLoopJobs
from workers_shim.engine_threads import SharedLoop, SlotThreads
from workers_shim.questions import QuestionDesk
from workers_shim.run import Run
from workers_shim.served_model import BROKER, GenerateFunction, ServedModel
from workers_shim.stream import Assignment, OutgoingStream

_log = logging.getLogger(__name__)


class EngineExecutor:
    """The engine side of one worker."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}
        self._threads = SlotThreads()
        self._beside_broker = BrokerLoopJobs()
        self._shared: dict[GenerateFunction, SharedLoop] = {}
        self._retired: list[SharedLoop] = []
        self._questions = QuestionDesk()
        # So that no request is started on a loop that has just been told to end.
        self._changing = threading.Lock()

    def add(self, model: ServedModel) -> None:
        """Serve a model, or serve it otherwise from the next request on. Called from any thread."""
        with self._changing:
            former = self._models.get(model.name)
            self._models[model.name] = model
            self._let_go(former)

    def remove(self, name: str) -> None:
        """Stop serving a model; what runs goes on. Called from any thread."""
        with self._changing:
            self._let_go(self._models.pop(name, None))

    @property
    def cards(self) -> list[ModelCard]:
        """What the worker announces."""
        # Copied at once, for another thread may add one meanwhile.
        return [model.card for model in list(self._models.values())]

    def start(self, assignment: Assignment, stream: OutgoingStream) -> None:
        """Begin; called on the broker's loop, or where there is none. Whatever goes wrong is told to the stream."""
        with self._changing:
            failure = self._begin(assignment, stream)
        if failure:
            stream.fail(FailureKind.NOT_SERVED, failure)
            stream.released()

    def ask(self, question: Question, reply: Callable[[Answered], None]) -> None:
        """Answer what is asked about a model; called on the broker's loop. `reply` may be called from any thread."""
        model = self._models.get(question.model)
        self._questions.ask(question, None if model is None else model.answers.get(question.kind), reply)

    def _begin(self, assignment: Assignment, stream: OutgoingStream) -> str:
        """Returns: why it cannot be, "" where it has begun."""
        model = self._models.get(assignment.generate.model)
        if model is None:
            return f"this worker does not serve {assignment.generate.model!r} any more"
        run = Run(assignment, stream, model)
        try:
            if model.shared_loop == BROKER and _is_on_a_loop():
                self._beside_broker.start(run)
            elif model.shared_loop:
                self._loop_of(model).start(run)
            else:
                self._threads.start(run)
        except RuntimeError as error:
            # The machine gives no thread any more.
            _log.error("no thread for an engine model=%s reason=%s", model.name, error)
            return f"this worker has no thread for {model.name!r}: {error}"
        return ""

    async def aclose(self, timeout: float) -> bool:
        """End all threads, waiting `timeout` seconds at most. False: an engine has not come back.

        Called on the broker's loop.
        """
        until = time.monotonic() + timeout
        came_back = await self._beside_broker.aclose(timeout)
        return await asyncio.to_thread(self._close, max(0.0, until - time.monotonic())) and came_back

    def _close(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        loops = [*self._shared.values(), *self._retired]
        closed = [loop.close(max(0.0, until - time.monotonic())) for loop in loops]
        closed.append(self._questions.close(max(0.0, until - time.monotonic())))
        return self._threads.close(max(0.0, until - time.monotonic())) and all(closed)

    def _loop_of(self, model: ServedModel) -> SharedLoop:
        # By function, not by name: one client behind two models has one loop.
        loop = self._shared.get(model.generate)
        if loop is None:
            loop = self._shared[model.generate] = SharedLoop(model.name)
        return loop

    def _let_go(self, model: ServedModel | None) -> None:
        """Of a function that serves no model any more nothing is to be kept: neither its thread nor what it holds."""
        if model is None or any(other.generate == model.generate for other in self._models.values()):
            return
        loop = self._shared.pop(model.generate, None)
        if loop is not None:
            loop.retire()
            self._retired = [retired for retired in self._retired if not retired.over] + [loop]


def _is_on_a_loop() -> bool:
    """`check` asks engines without a broker."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
