"""Workers that obey the rules, and the broker between them and a controller: a model without any I/O, for one request.

The broker holds the copies of the request in queues, and what is under way in each direction, in order for each sender.
What fails, and when anything moves, is up to whoever drives it. Times are in seconds.
"""

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from broker_controller.decisions import Place, Publish
from broker_wire.messages import (
    Ask,
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
    Started,
    Stop,
    Texts,
)

STREAM = 7
ANSWER = "abcdefghijklmnopqrstuvwxyz"
ASK_AGAIN = 5.0
GRACE = 30.0
"""Seconds that a worker keeps a stream for a controller that is gone."""


class Copy(Struct, eq=False):
    """The request in a queue, or unacked at a worker."""

    attempt: int
    place: Place
    asks: bool


class Held(Struct, eq=False):
    """The request on a worker. While it does not run it has asked; without `copy` its tag is void, or it is acked."""

    copy: Copy | None
    copy_attempt: int
    attempt: int
    asked_at: float = 0.0
    running: bool = False
    first: int = 0
    """The number of its first chunk."""
    chunks: tuple[str, ...] = ()
    sent: int = 0
    """The number of the next chunk."""
    ended: bool = False


class WorkerModel:
    """What one worker holds. `instance` changes with every start of the process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.starts = 0
        self.held: Held | None = None
        self.kept: Held | None = None
        """What it ran to the end, until the controller is done with it."""
        self.orders: deque[ControlMessage] = deque()
        self.controller_gone_at: float | None = None
        self.cancelled = False

    @property
    def name(self) -> str:
        return f"w{self.number}"

    @property
    def instance(self) -> str:
        return f"i{self.number}.{self.starts}"

    @property
    def stream(self) -> Held | None:
        """The answer that it has something of."""
        return self.held if self.held is not None and self.held.running else self.kept

    def restart(self) -> None:
        self.starts += 1
        self.held = self.kept = self.controller_gone_at = None
        self.cancelled = False
        self.orders.clear()

    def chunks_from(self, text: str) -> tuple[str, ...]:
        """The rest of the answer, cut as no other run of it is: a chunk of another run in its place shows."""
        size = 1 + (self.number + self.starts + len(text)) % 3
        rest = ANSWER[len(text) :]
        return tuple(rest[start : start + size] for start in range(0, len(rest), size))


def holds(worker: WorkerModel) -> bool:
    """The request has a slot there."""
    return worker.held is not None


def is_running(worker: WorkerModel) -> bool:
    """It has something to say for a request that it holds."""
    return worker.held is not None and worker.held.running and worker.controller_gone_at is None


def has_asked(worker: WorkerModel) -> bool:
    """It waits for the answer."""
    return worker.held is not None and not worker.held.running


def may_generate(worker: WorkerModel) -> bool:
    """It has more of an answer to send."""
    return worker.stream is not None and not worker.stream.ended and worker.controller_gone_at is None


class Fleet:
    """Three workers, the queues, and all that is under way. `deadline` is the request's."""

    def __init__(self, deadline: float) -> None:
        self.now = self.watched = 100.0
        self.deadline = deadline
        self.workers = [WorkerModel(number) for number in range(3)]
        self.queues: dict[Place, deque[Copy]] = {place: deque() for place in Place}
        self.replies: deque[tuple[str, Frame]] = deque()
        self.outcomes: deque[tuple[int, bool]] = deque()
        """Of the publishes that the broker did not take: the attempt, and whether it was returned."""
        self.news: deque[tuple[str, str]] = deque()
        self.full = self.missing_queues = False
        self.sends = self.receives = True
        """Whether the controller's two connections are there."""

    def find(self, number: int, condition: Callable[[WorkerModel], object]) -> WorkerModel | None:
        """The worker of this number, or the next one of whom it is true."""
        following = [self.workers[(number + step) % len(self.workers)] for step in range(len(self.workers))]
        return next((worker for worker in following if condition(worker)), None)

    # --- from the controller

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
        """An order for a process that is no more comes back."""
        if not self.sends:
            return
        for worker in self.workers:
            if worker.instance == instance:
                worker.orders.append(message)
                return
        self.news.append(("obituary", instance))

    def broadcast(self, message: Cancel) -> None:
        if self.sends:
            for worker in self.workers:
                worker.orders.append(message)

    # --- the broker

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

    def deliver(self, number: int) -> None:
        """The first copy goes to this worker, or to the chosen one."""
        place = next(place for place in Place if self.queues[place])
        takes_it = self.workers[number if place in (Place.MODEL, Place.RESUME) else 0]
        self.take(takes_it, self.queues[place].popleft())

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

    # --- what a worker does

    def take(self, worker: WorkerModel, copy: Copy) -> None:
        former = worker.held
        if worker.cancelled or self.now >= self.deadline:
            return
        if former is not None and copy.attempt <= max(former.attempt, former.copy_attempt):
            return
        if former is None and worker.kept is not None and copy.attempt <= worker.kept.attempt:
            return
        held = worker.held = Held(copy, copy.attempt, copy.attempt)
        if copy.asks or (former is not None and not former.running):
            self.ask(worker, held)
        else:
            self.start(worker, held, Go("c", STREAM, copy.attempt))

    def ask(self, worker: WorkerModel, held: Held) -> None:
        held.asked_at = self.watched
        self.send(worker, Ask(STREAM, held.attempt, worker.name, worker.instance))

    def start(self, worker: WorkerModel, held: Held, go: Go) -> None:
        held.running, held.attempt = True, go.attempt
        held.first = held.sent = go.next_seq
        held.chunks = worker.chunks_from(go.text)
        worker.kept = None
        self.send(worker, Started(STREAM, go.attempt, worker.name, worker.instance))

    def generate(self, worker: WorkerModel, tokens: int) -> None:
        """Send the next chunks, or the end. Of an end that nobody takes it is not rid."""
        stream = worker.stream
        if stream is None or not may_generate(worker):
            return
        begin = stream.sent - stream.first
        texts = list(stream.chunks[begin : begin + tokens])
        frame = Texts(STREAM, stream.attempt, stream.sent, texts) if texts else End(STREAM, stream.attempt, stream.sent)
        self.send(worker, frame)
        if worker.controller_gone_at is None:
            stream.sent += len(texts)
            if not texts:
                stream.ended = True
                worker.kept = stream
                if worker.held is stream:
                    worker.held = None

    def fail(self, worker: WorkerModel, kind: FailureKind) -> None:
        held = worker.held
        if held is not None and is_running(worker):
            self.send(worker, Failed(STREAM, held.attempt, held.sent, kind, "it fails"))
            worker.held = None

    def say_that_it_works(self, worker: WorkerModel) -> None:
        if worker.held is not None and is_running(worker):
            self.send(worker, Progress(STREAM, worker.held.attempt))

    def obey(self, worker: WorkerModel, *, gives_back: bool = False) -> None:
        """The first order under way. `gives_back`: another request runs apart there."""
        order = worker.orders.popleft()
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
                self.resend(worker, attempt, seq)

    def resend(self, worker: WorkerModel, attempt: int, seq: int) -> None:
        stream = worker.stream
        if stream is not None and stream.attempt > attempt:
            return
        if stream is None or stream.attempt < attempt or not stream.first <= seq <= stream.first + len(stream.chunks):
            self.send(worker, Gone(STREAM, attempt))
        else:
            stream.sent, stream.ended = seq, False

    # --- what goes wrong

    def die(self, worker: WorkerModel, said: str) -> None:
        """Its process ends; the broker says `said` of it, and has its copy again."""
        copy = worker.held.copy if worker.held is not None else None
        self.news.append((said, worker.instance))
        worker.restart()
        self.requeue(copy)

    def void(self, worker: WorkerModel) -> None:
        """Its channel of requests went. What runs goes on; what has asked is forgotten."""
        held = worker.held
        if held is not None:
            copy, held.copy = held.copy, None
            if not held.running:
                worker.held = None
            self.requeue(copy)

    def cut(self, worker: WorkerModel) -> None:
        """Its connections were lost, and are there again."""
        self.void(worker)
        worker.orders.clear()
        self.news += [("obituary", worker.instance), ("announce", worker.instance)]

    def lose_all_connections(self, number: int, *, copies_are_lost: bool) -> None:
        """Those of the controller, too; all are there again, and what the broker still has goes to this worker."""
        self.replies.clear()
        self.news.clear()
        self.outcomes.clear()
        self.sends = self.receives = True
        for worker in self.workers:
            self.void(worker)
            worker.orders.clear()
            self.news.append(("announce", worker.instance))
        if copies_are_lost:
            for copies in self.queues.values():
                copies.clear()
        elif any(self.queues.values()):
            self.deliver(number)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.sends and self.receives:
            self.watched += seconds

    def look_at_the_clocks(self) -> None:
        """Who has no answer asks again; who has no controller, or no time left, stops."""
        for worker in self.workers:
            held = worker.held
            if held is not None and not held.running and self.watched - held.asked_at >= ASK_AGAIN:
                self.ask(worker, held)
            is_abandoned = worker.controller_gone_at is not None and self.watched - worker.controller_gone_at >= GRACE
            if is_abandoned or self.now >= self.deadline:
                worker.held = worker.kept = None
