"""What must hold between what a controller heard of a request and what it decided, looked at after every event.

It sees the request's life from outside: the stage, who runs it, by which attempt, and what was told to whom.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from broker_controller.decisions import Limits, Stage
from broker_controller.lifecycle import RequestLife
from broker_wire.messages import Ask, ControlMessage, End, Failed, Frame, GivenBack, Go, Gone, Resend, Stop, Texts
from tests.unit.model_fleet import ANSWER, Fleet, Held


class Witness:
    """One a run. Every event passes through `event`, every order through `on_told`."""

    def __init__(self, life: RequestLife, fleet: Fleet) -> None:
        self.delivered = ""
        self.chunks = 0
        """What the client has."""
        self._life = life
        self._fleet = fleet
        self._ran: dict[int, str] = {}
        """Whose frames count, by attempt."""
        self._told: list[tuple[str, ControlMessage]] = []
        self._asked: dict[str, Held] = {}
        """Whose question was heard, and not answered yet."""
        self._lacked = -1
        """The number from which chunks were last asked for again."""
        self._lost_at: float | None = None
        self._is_doubted = self._is_back = False
        """Of who runs it: a connection was lost, and it has announced itself since."""

    def on_delivered(self, chunk: str) -> None:
        self.delivered += chunk
        self.chunks += 1

    def on_published(self, attempt: int) -> None:
        assert self._life.stage is Stage.WAITING
        assert attempt > max(self._ran, default=0), "a copy looks like one that ran"

    def on_told(self, instance: str, message: ControlMessage) -> None:
        self._told.append((instance, message))
        match message:
            case Go():
                assert (message.text, message.next_seq) == (self.delivered, self.chunks)
                self._asked.pop(instance, None)
                self._forget_doubts()
            case Resend(streams=((_, _, seq),)):
                self._lacked = seq
            case Stop(attempt=attempt) if instance in self._asked and self._asked[instance].attempt <= attempt:
                del self._asked[instance]

    @contextmanager
    def event(self, instance: str = "", what: Frame | str = "") -> Iterator[None]:
        """Around what the controller does upon it: `what` was heard of this process."""
        life = self._life
        stage, runner, attempt, next_seq = life.stage, life.instance, life.attempt, life.answer.next_seq
        was_running, was_back = stage is Stage.RUNNING, self._is_back
        self._told.clear()
        if isinstance(what, Ask):
            self._note_question(instance, what)
        yield
        is_same = was_running and (life.stage, life.instance, life.attempt) == (stage, runner, attempt)
        if was_running and life.instance != runner:
            is_rid_of_it = isinstance(what, GivenBack) and instance == runner
            assert is_rid_of_it or self._was_stopped(runner, attempt), "who had it was not told to stop"
        if isinstance(what, Texts | End | Failed) and what.attempt != attempt and stage is not Stage.OVER:
            assert (life.stage, life.answer.next_seq) == (stage, next_seq), "a fenced frame counted"
            assert self._was_stopped(instance, what.attempt), "who was left behind was not told to stop"
        if is_same:
            self._check_runner(instance, what, next_seq)
        else:
            if isinstance(what, Ask) and was_running:
                assert not was_back, "it was taken from a worker that was back"
            self._forget_doubts()
        if life.stage is Stage.RUNNING:
            assert self._ran.setdefault(life.attempt, life.instance) == life.instance, "two run by one attempt"
        if life.stage is Stage.OVER:
            waiting = [worker.held for worker in self._fleet.workers]
            assert not any(held in waiting for held in self._asked.values()), "a question has no answer"

    def _check_runner(self, instance: str, what: Frame | str, next_seq: int) -> None:
        """The same process runs it by the same attempt, whatever was heard."""
        life, watched = self._life, self._fleet.watched
        is_its_own = instance == life.instance
        match what:
            case Gone(attempt=attempt) | GivenBack(attempt=attempt):
                assert not (is_its_own and attempt == life.attempt), "who does not have it is waited for"
            case Texts(attempt=attempt, seq=seq) | End(attempt=attempt, seq=seq) if attempt == life.attempt:
                assert is_its_own
                assert seq <= next_seq or self._lacked == next_seq, "what is missing was not asked for"
            case "reconnect":
                self._is_doubted, self._is_back = True, False
            case "obituary" | "goodbye" if is_its_own:
                self._is_doubted, self._is_back = True, False
                if what == "obituary" and self._lost_at is None:
                    self._lost_at = watched
            case "announce" | "announce with a new queue" if is_its_own:
                self._is_back = self._is_doubted
                self._lost_at = None
            case "sweep" if self._lost_at is not None:
                assert watched - self._lost_at < Limits().grace, "the dead are waited for"

    def _note_question(self, instance: str, ask: Ask) -> None:
        for worker in self._fleet.workers:
            held = worker.held
            if worker.instance == instance and held is not None and not held.running and held.attempt == ask.attempt:
                self._asked[instance] = held

    def _was_stopped(self, instance: str, attempt: int) -> bool:
        return any(
            told == instance and isinstance(message, Stop) and message.attempt >= attempt
            for told, message in self._told
        )

    def _forget_doubts(self) -> None:
        self._lost_at = None
        self._is_doubted = self._is_back = False

    def check_answer(self, *, complete: bool) -> None:
        assert ANSWER.startswith(self.delivered)
        if complete:
            assert self.delivered == ANSWER
