"""The life of a request in any order of events: workers that obey the rules, die and come back, and a broker between.

The model of the broker holds the copies of the request in queues, and what is under way in each direction, in order for
each sender. Whatever happens, the client gets a prefix of the true answer; and once everybody is well again, all of it,
or an error, long before the deadline, and no worker holds a slot for it any more.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from broker_controller.decisions import Action, Broadcast, GiveUp, Limits, Place, Publish, Stage, Tell
from broker_controller.errors import DeadlineError, ServiceError
from broker_controller.lifecycle import RequestLife
from broker_controller.registry import Registry
from broker_controller.reply_reader import ReplyReader
from broker_controller.streams import GenerationStream
from broker_wire.garbage import GarbageBin
from broker_wire.messages import (
    Ask,
    Batch,
    Cancel,
    ControlMessage,
    End,
    Failed,
    FailureKind,
    Frame,
    GivenBack,
    Go,
    Gone,
    Progress,
    Resend,
    ResumeMode,
    Started,
    Stop,
    Texts,
)
from tests.unit.reply_reader_doubles import GatewayDouble, LinksDouble, as_delivered

STREAM = 7
ANSWER = "abcdefghijkl"
"""One token a character."""
FAR = 100_000.0
"""A deadline that no run comes near."""
ASK_AGAIN = 5.0
GRACE = 30.0
"""Seconds that a worker keeps a stream for a controller that is gone."""
STEP = 0.5
WORKERS = st.integers(0, 2)
MOVES = ("take", "generate", "generate", "hear", "hear", "obey", "news")


class Copy(Struct, eq=False):
    """The request in a queue, or unacked at a worker."""

    attempt: int
    place: Place
    asks: bool


class Held(Struct, eq=False):
    """The request on a worker. Without `go` it has asked; without `copy` its tag is void, or it is acked."""

    copy: Copy | None
    copy_attempt: int
    attempt: int
    asked_at: float = 0.0
    running: bool = False
    sent: int = 0
    ended: bool = False


class WorkerModel:
    """A worker that obeys the protocol's rules. `instance` changes with every start of the process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.starts = 0
        self.held: Held | None = None
        self.kept: Held | None = None
        """What it ran to the end, until the controller is done with it."""
        self.replies: deque[Frame] = deque()
        self.orders: deque[ControlMessage] = deque()
        self.controller_gone_at: float | None = None
        self.cancelled = False

    @property
    def instance(self) -> str:
        return f"i{self.number}.{self.starts}"

    def restart(self) -> None:
        self.starts += 1
        self.held = self.kept = self.controller_gone_at = None
        self.cancelled = False
        self.orders.clear()


def may_generate(worker: WorkerModel) -> bool:
    """It has more of an answer to send."""
    held = worker.held if worker.held is not None else worker.kept
    return held is not None and held.running and not held.ended


def is_running(worker: WorkerModel) -> bool:
    """It has something to say for a request that it holds."""
    return worker.held is not None and worker.held.running


def has_asked(worker: WorkerModel) -> bool:
    """It waits for the answer."""
    return worker.held is not None and not worker.held.running


class AnyOrder(RuleBasedStateMachine):
    life: RequestLife
    stream: GenerationStream

    def __init__(self) -> None:
        super().__init__()
        self.now = self.watched = 100.0
        self.workers = [WorkerModel(number) for number in range(3)]
        self.queues: dict[Place, deque[Copy]] = {place: deque() for place in Place}
        self.replies: deque[tuple[str, Frame]] = deque()
        self.outcomes: deque[tuple[int, bool]] = deque()
        self.news: deque[tuple[str, str]] = deque()
        self.full = False
        self.missing_queues = False
        self.sends = self.receives = True
        self.was_away = False
        self.done_for = ""
        self.error: ServiceError | None = None
        self.complete = False
        self.delivered = ""
        self.ran: dict[int, str] = {}
        """Whose frames counted, by attempt."""
        gateway: Any = GatewayDouble(self)
        links: Any = LinksDouble(self)
        self.garbage = GarbageBin()
        self.reader = ReplyReader(gateway, links, Registry(), self.garbage, clock=lambda: self.now)

    @initialize(
        place=st.sampled_from([Place.MODEL, Place.MODEL, Place.OWN, Place.PINNED]),
        resume=st.sampled_from([None, None, *ResumeMode]),
        deadline=st.sampled_from([FAR, FAR, FAR, FAR, 200.0]),
    )
    def submit(self, place: Place, resume: ResumeMode | None, deadline: float) -> None:
        self.deadline = deadline
        self.life = RequestLife(
            controller="c",
            stream=STREAM,
            request_id="r",
            model="m",
            place=place,
            target="w0",
            deadline=deadline,
            now=self.now,
            limits=Limits(),
            resume=resume,
        )
        self.stream = GenerationStream(self.life, on_cancel=lambda _: None, on_flow=lambda *_: None)
        self.carry_out(self.life.begin())

    @property
    def over(self) -> bool:
        return self.life.stage is Stage.OVER

    # --- what the controller decided

    def carry_out(self, actions: list[Action]) -> None:
        if self.over:
            assert not any(isinstance(action, Publish) for action in actions)
        for action in actions:
            match action:
                case Publish():
                    self.publish(action)
                case Tell(instance, message):
                    self.tell(instance, message)
                case Broadcast(message):
                    for worker in self.workers:
                        if self.sends:
                            worker.orders.append(message)
                case GiveUp(error):
                    assert self.error is None
                    self.error = error
        if self.over and self.life.instance:
            self.done_for = self.life.instance

    def publish(self, action: Publish) -> None:
        if not self.sends:
            return
        if action.place is Place.MODEL and self.full:
            self.outcomes.append((action.attempt, False))
        elif action.place in (Place.OWN, Place.RESUME) and self.missing_queues:
            self.outcomes.append((action.attempt, True))
        else:
            self.queues[action.place].append(Copy(action.attempt, action.place, action.ask_first))

    def tell(self, instance: str, message: ControlMessage) -> None:
        if not self.sends:
            return
        if isinstance(message, Go):
            assert message.text == ANSWER[: message.next_seq] == self.delivered
        for worker in self.workers:
            if worker.instance == instance:
                worker.orders.append(message)
                return
        self.news.append(("obituary", instance))

    # --- the broker and the workers

    def requeue(self, copy: Copy | None) -> None:
        if copy is not None:
            copy.asks = True
            if copy.place is Place.OWN:
                self.dead_letter(copy)
            else:
                self.queues[copy.place].appendleft(copy)

    def dead_letter(self, copy: Copy) -> None:
        """A full queue drops what is dead-lettered to it."""
        if not self.full:
            self.queues[Place.MODEL].append(Copy(copy.attempt, Place.MODEL, asks=True))

    def send(self, worker: WorkerModel, frame: Frame) -> None:
        """A reply is in the controller's queue, or comes back since there is none."""
        if self.receives:
            self.replies.append((worker.instance, frame))
            worker.controller_gone_at = None
            return
        if worker.controller_gone_at is None:
            worker.controller_gone_at = self.watched
        if isinstance(frame, Started | Ask):
            worker.held = None

    def take(self, worker: WorkerModel, copy: Copy) -> None:
        former = worker.held
        if worker.cancelled or self.now >= self.deadline:
            return
        if former is not None and copy.attempt <= max(former.attempt, former.copy_attempt):
            return
        if former is None and worker.kept is not None and copy.attempt <= worker.kept.attempt:
            return
        held = worker.held = Held(copy, copy.attempt, copy.attempt)
        if copy.asks:
            self.ask(worker, held)
        else:
            self.start(worker, held, Go("c", STREAM, copy.attempt))

    def ask(self, worker: WorkerModel, held: Held) -> None:
        held.asked_at = self.watched
        self.send(worker, Ask(STREAM, held.attempt, f"w{worker.number}", worker.instance))

    def start(self, worker: WorkerModel, held: Held, go: Go) -> None:
        held.running, held.attempt, held.sent = True, go.attempt, go.next_seq
        worker.kept = None
        self.send(worker, Started(STREAM, go.attempt, f"w{worker.number}", worker.instance))

    def generate(self, worker: WorkerModel, tokens: int) -> None:
        held = worker.held if worker.held is not None else worker.kept
        if held is None or not held.running or worker.controller_gone_at is not None or held.ended:
            return
        if held.sent < len(ANSWER):
            texts = list(ANSWER[held.sent : held.sent + tokens])
            frame: Frame = Texts(STREAM, held.attempt, held.sent, texts)
        else:
            texts, frame = [], End(STREAM, held.attempt, held.sent)
        self.send(worker, frame)
        if worker.controller_gone_at is None:
            held.sent += len(texts)
            if not texts:
                held.ended = True
                worker.held, worker.kept = None, held

    def obey(self, worker: WorkerModel, order: ControlMessage, *, gives_back: bool) -> None:
        worker.controller_gone_at = None
        held, kept = worker.held, worker.kept
        match order:
            case Go() if held is not None and not held.running:
                if order.apart and gives_back:
                    self.send(worker, GivenBack(STREAM, order.attempt))
                    worker.held = None
                    self.requeue(held.copy)
                else:
                    self.start(worker, held, order)
            case Go() if held is None or held.attempt < order.attempt:
                self.send(worker, Gone(STREAM, order.attempt))
                worker.held = None
            case Stop(attempt=attempt):
                if held is not None and held.attempt <= attempt:
                    worker.held = None
                if kept is not None and kept.attempt <= attempt:
                    worker.kept = None
            case Cancel():
                worker.held = worker.kept = None
                worker.cancelled = True
            case Resend(streams=((_, attempt, seq),)):
                stream = held if held is not None and held.running else kept
                if stream is not None and stream.attempt > attempt:
                    return
                if stream is None or stream.attempt < attempt or seq > stream.sent:
                    self.send(worker, Gone(STREAM, attempt))
                else:
                    stream.sent, stream.ended = seq, False

    def void(self, worker: WorkerModel) -> None:
        """Its channel of requests went. What runs goes on; what has asked is forgotten."""
        held = worker.held
        if held is not None:
            copy, held.copy = held.copy, None
            if not held.running:
                worker.held = None
            self.requeue(copy)

    # --- what the controller hears

    def hear(self) -> None:
        instance, frame = self.replies.popleft()
        if isinstance(frame, Texts | End | Failed) and not self.life.stale(frame.attempt):
            assert self.ran.setdefault(frame.attempt, instance) == instance
        self.reader._on_delivery(as_delivered(Batch(instance, [frame])))
        self.delivered += "".join(item for item in self.stream.take() if isinstance(item, str))

    def hear_news(self) -> None:
        kind, instance = self.news.popleft()
        match kind:
            case "announce":
                self.carry_out(self.life.on_announce(instance, made_model_queue=False))
            case "announce with a new queue":
                self.carry_out(self.life.on_announce(instance, made_model_queue=True))
            case _:
                self.carry_out(self.life.on_obituary(instance, self.watched, in_order=kind == "goodbye"))

    def hear_outcome(self) -> None:
        attempt, is_return = self.outcomes.popleft()
        self.carry_out(self.life.on_returned(attempt) if is_return else self.life.on_nacked(attempt))

    # --- rules: messages move

    def worker(self, number: int, condition: Callable[[WorkerModel], object]) -> WorkerModel | None:
        """The worker of this number, or the next one of whom it is true: so that fewer steps do nothing."""
        following = [self.workers[(number + step) % len(self.workers)] for step in range(len(self.workers))]
        return next((worker for worker in following if condition(worker)), None)

    @precondition(lambda self: any(self.queues.values()))
    @rule(number=WORKERS)
    def a_worker_takes(self, number: int) -> None:
        self.take_one(number)

    def take_one(self, number: int) -> None:
        place = next(place for place in Place if self.queues[place])
        takes_it = self.workers[number if place in (Place.MODEL, Place.RESUME) else 0]
        self.take(takes_it, self.queues[place].popleft())

    @precondition(lambda self: self.queues[Place.OWN])
    @rule()
    def the_chosen_worker_has_no_room(self) -> None:
        self.dead_letter(self.queues[Place.OWN].popleft())

    @precondition(lambda self: self.worker(0, may_generate))
    @rule(number=WORKERS, tokens=st.integers(1, 3))
    def a_worker_generates(self, number: int, tokens: int) -> None:
        worker = self.worker(number, may_generate)
        assert worker is not None
        self.generate(worker, tokens)

    @precondition(lambda self: self.replies)
    @rule()
    def a_reply_arrives(self) -> None:
        self.hear()

    @precondition(lambda self: len(self.replies) > 1)
    @rule()
    def another_workers_reply_comes_first(self) -> None:
        first = self.replies[0][0]
        for index, (instance, _) in enumerate(self.replies):
            if instance != first:
                reply = self.replies[index]
                del self.replies[index]
                self.replies.appendleft(reply)
                return

    @precondition(lambda self: self.worker(0, lambda worker: worker.orders))
    @rule(number=WORKERS, gives_back=st.booleans())
    def an_order_arrives(self, number: int, gives_back: bool) -> None:
        worker = self.worker(number, lambda worker: worker.orders)
        assert worker is not None
        self.obey(worker, worker.orders.popleft(), gives_back=gives_back)

    @precondition(lambda self: self.news and self.receives)
    @rule()
    def news_of_the_fleet(self) -> None:
        self.hear_news()

    @precondition(lambda self: self.outcomes)
    @rule()
    def the_broker_answers_a_publish(self) -> None:
        self.hear_outcome()

    @rule(moves=st.lists(st.tuples(st.sampled_from(MOVES), WORKERS), min_size=3, max_size=12))
    def many_messages_move(self, moves: list[tuple[str, int]]) -> None:
        """A run has some rules only, and few have all that an answer needs: without this most end in the queue."""
        for move, number in moves:
            match move:
                case "take" if any(self.queues.values()):
                    self.take_one(number)
                case "generate":
                    self.generate(self.worker(number, may_generate) or self.workers[number], 1)
                case "hear" if self.replies:
                    self.hear()
                case "obey" if worker := self.worker(number, lambda worker: worker.orders):
                    self.obey(worker, worker.orders.popleft(), gives_back=False)
                case "news" if self.news and self.receives:
                    self.hear_news()

    # --- rules: what goes wrong

    @rule(number=WORKERS)
    def a_worker_dies_and_another_process_takes_its_place(self, number: int) -> None:
        worker = self.workers[number]
        copy = worker.held.copy if worker.held is not None else None
        self.news.append(("obituary", worker.instance))
        worker.restart()
        self.requeue(copy)
        self.news.append(("announce", worker.instance))

    @rule(number=WORKERS)
    def a_worker_leaves_with_requests_running(self, number: int) -> None:
        worker = self.workers[number]
        copy = worker.held.copy if worker.held is not None else None
        self.news.append(("goodbye", worker.instance))
        worker.restart()
        self.requeue(copy)

    @rule(number=WORKERS)
    def a_workers_channel_of_requests_closes(self, number: int) -> None:
        self.void(self.workers[number])

    @rule(number=WORKERS)
    def a_workers_connection_is_cut(self, number: int) -> None:
        worker = self.workers[number]
        self.void(worker)
        worker.orders.clear()
        self.news += [("obituary", worker.instance), ("announce", worker.instance)]

    @rule(number=WORKERS)
    def a_worker_answers_a_roll_call(self, number: int) -> None:
        self.news.append(("announce", self.workers[number].instance))

    @precondition(lambda self: self.worker(0, has_asked))
    @rule(number=WORKERS)
    def a_workers_question_is_said_twice(self, number: int) -> None:
        worker = self.worker(number, has_asked)
        assert worker is not None
        assert worker.held is not None
        self.ask(worker, worker.held)

    @precondition(lambda self: self.receives and self.worker(0, is_running))
    @rule(number=WORKERS, kind=st.sampled_from([FailureKind.NOT_SERVED, FailureKind.ENGINE, FailureKind.DIVERGED]))
    def an_answer_ends_as_a_failure(self, number: int, kind: FailureKind) -> None:
        worker = self.worker(number, is_running)
        assert worker is not None
        held = worker.held
        if held is not None and worker.controller_gone_at is None:
            self.send(worker, Failed(STREAM, held.attempt, held.sent, kind, "it fails"))
            worker.held = None

    @precondition(lambda self: self.worker(0, is_running))
    @rule(number=WORKERS)
    def an_engine_says_that_it_works(self, number: int) -> None:
        worker = self.worker(number, is_running)
        assert worker is not None
        held = worker.held
        if held is not None and worker.controller_gone_at is None:
            self.send(worker, Progress(STREAM, held.attempt))

    @rule(number=WORKERS)
    def the_models_queue_is_lost_and_made_anew(self, number: int) -> None:
        self.queues[Place.MODEL].clear()
        self.news.append(("announce with a new queue", self.workers[number].instance))

    @rule(full=st.booleans())
    def the_models_queue_is_full_or_not(self, full: bool) -> None:
        self.full = full

    @rule(missing=st.booleans())
    def the_other_queues_are_missing_or_not(self, missing: bool) -> None:
        self.missing_queues = missing

    @rule()
    def the_publishing_connection_is_lost(self) -> None:
        self.sends = False
        self.outcomes.clear()

    @rule()
    def the_consuming_connection_is_lost(self) -> None:
        self.receives = False
        self.replies.clear()
        self.news.clear()

    @precondition(lambda self: not (self.sends and self.receives))
    @rule()
    def both_connections_are_there_again(self) -> None:
        self.sends = self.receives = self.was_away = True
        self.carry_out(self.life.on_reconnect(self.now))

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.5, 6.0, 16.0, 31.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds, has_worker=True)

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def time_passes_and_the_queue_is_read(self, seconds: float) -> None:
        self.pass_time(seconds, has_worker=True, is_queue_empty=not self.queues[Place.MODEL])

    @rule(seconds=st.sampled_from([0.5, 6.0]))
    def time_passes_without_workers(self, seconds: float) -> None:
        self.pass_time(seconds, has_worker=False)

    @precondition(lambda self: self.life.attempt > 2)
    @rule()
    def the_client_leaves(self) -> None:
        self.carry_out(self.life.cancel())

    def pass_time(self, seconds: float, *, has_worker: bool, is_queue_empty: bool = False) -> None:
        self.now += seconds
        if self.sends and self.receives:
            self.watched += seconds
        self.carry_out(self.life.sweep(self.now, self.watched, has_worker, is_queue_empty=is_queue_empty))
        gap_since = self.stream.gap_since
        if gap_since is not None and self.watched - gap_since > 1.0 and self.life.stage is Stage.RUNNING:
            self.stream.gap_since = self.watched
            self.carry_out([self.life.missing()])
        if self.over and self.sends and self.done_for:
            self.tell(self.done_for, Stop("c", STREAM, self.life.attempt))
            self.done_for = ""
        for worker in self.workers:
            held = worker.held
            if held is not None and not held.running and self.watched - held.asked_at >= ASK_AGAIN:
                self.ask(worker, held)
            is_abandoned = worker.controller_gone_at is not None and self.watched - worker.controller_gone_at >= GRACE
            if is_abandoned or self.now >= self.deadline:
                worker.held = worker.kept = None

    # --- what stays true

    @invariant()
    def the_client_has_a_prefix_of_the_answer(self) -> None:
        assert ANSWER.startswith(self.delivered)
        if self.complete:
            assert self.delivered == ANSWER

    def everything_moves(self) -> None:
        """One healthy half second."""
        while self.replies or self.news or self.outcomes or any(worker.orders for worker in self.workers):
            while self.replies:
                self.hear()
            while self.news:
                self.hear_news()
            while self.outcomes:
                self.hear_outcome()
            for worker in self.workers:
                while worker.orders:
                    self.obey(worker, worker.orders.popleft(), gives_back=False)
        for worker in self.workers:
            for place, copies in self.queues.items():
                if copies and (worker.number == 0 or place in (Place.MODEL, Place.RESUME)):
                    self.take(worker, copies.popleft())
            self.generate(worker, 2)
        self.pass_time(STEP, has_worker=True)

    def steps_until(self, seconds: float) -> bool:
        """Whether the request is over, and nobody holds it, within this time."""
        for _ in range(int(seconds / STEP)):
            if self.over and not any(worker.held for worker in self.workers):
                return True
            self.everything_moves()
        return False

    def teardown(self) -> None:
        """All are well again: the request ends long before its deadline, and no slot is held for it."""
        if not hasattr(self, "life"):
            return
        self.full = self.missing_queues = False
        if not (self.sends and self.receives):
            self.both_connections_are_there_again()
        for _ in range(400):
            if self.over:
                break
            self.everything_moves()
        assert self.over, "nobody runs it, and its client waits"
        assert not isinstance(self.error, DeadlineError) or self.now >= self.deadline
        assert not self.garbage.counts
        # Whose question or answer was lost on the way asks again; whose controller was gone waits for a sign of it.
        patience = ASK_AGAIN if self.was_away else 0.0
        if any(worker.controller_gone_at is not None for worker in self.workers):
            patience = GRACE
        assert self.steps_until(patience + 5.0), "a slot is held for a request that is over"
        self.the_client_has_a_prefix_of_the_answer()


AnyOrder.TestCase.settings = settings(
    max_examples=300, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnyOrder = AnyOrder.TestCase
