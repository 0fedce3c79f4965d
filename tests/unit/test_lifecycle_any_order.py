"""The life of a request in any order of events, through the real reply reader, with a model of the fleet around it.

Whatever happens, the client gets a prefix of the true answer; and once everybody is well again, all of it, or an error,
long before the deadline, and no worker holds a slot for it any more. Most runs begin in the middle of an answer, and
some after a death or two: what goes wrong before anybody has begun is a small part of what can.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from broker_controller.decisions import Limits, Place, Stage
from broker_controller.errors import DeadlineError
from broker_controller.lifecycle import RequestLife
from broker_controller.streams import GenerationStream
from broker_wire.messages import End, FailureKind, ResumeMode, Started, Texts
from tests.unit.life_machine import STEP, LifeMachine
from tests.unit.lifecycle_witness import Witness
from tests.unit.model_fleet import (
    ASK_AGAIN,
    GRACE,
    STREAM,
    Fleet,
    WorkerModel,
    has_asked,
    holds,
    is_running,
    may_generate,
)

FAR = 100_000.0
"""A deadline that no run comes near."""
WORKERS = st.integers(0, 2)
VICTIMS = st.integers(0, 5)
"""From 3 on: one that holds the request, if any does."""
MOVES = ("take", "generate", "generate", "hear", "hear", "obey", "news")
PASTS = ((), (3,), (1,), (2,), (5,), (4,), (0, 2), (2, 2), (1, 0, 2), (2, 1, 1))
"""Chunks that each worker has sent: all but the last one have died."""

FAILURES = (FailureKind.NOT_SERVED, FailureKind.NOT_SERVED, FailureKind.ENGINE, FailureKind.DIVERGED)


class AnyOrder(LifeMachine):
    def __init__(self) -> None:
        super().__init__()
        self.was_away = self.has_left = False

    @initialize(
        place=st.sampled_from([Place.MODEL, Place.MODEL, Place.MODEL, Place.OWN, Place.OWN, Place.PINNED]),
        resume=st.sampled_from([None, None, None, None, None, *ResumeMode]),
        deadline=st.sampled_from([FAR, FAR, FAR, FAR, 200.0]),
        past=st.sampled_from(PASTS),
        has_just_died=st.sampled_from([False, False, True]),
    )
    def submit(
        self, place: Place, resume: ResumeMode | None, deadline: float, past: tuple[int, ...], has_just_died: bool
    ) -> None:
        self.fleet = Fleet(deadline)
        self.life = RequestLife(
            controller="c",
            stream=STREAM,
            request_id="r",
            model="m",
            place=place,
            target="w0",
            deadline=deadline,
            now=self.fleet.now,
            limits=Limits(),
            resume=resume,
        )
        self.witness = Witness(self.life, self.fleet)
        self.stream = GenerationStream(self.life, on_cancel=lambda _: None, on_flow=lambda *_: None)
        self.carry_out(self.life.begin())
        for index, chunks in enumerate(past):
            if index:
                self.a_worker_dies_and_another_process_takes_its_place(3)
            self.run_until(self.witness.chunks + chunks)
        if has_just_died:
            self.a_worker_dies_and_another_process_takes_its_place(3)

    def run_until(self, chunks: int) -> None:
        """A worker runs it, and the client has so many chunks."""
        while not self.over and (self.life.stage is not Stage.RUNNING or self.witness.chunks < chunks):
            self.everything_moves(tokens=1)

    # --- rules: messages move

    @precondition(lambda self: any(self.fleet.queues.values()))
    @rule(number=WORKERS)
    def a_worker_takes(self, number: int) -> None:
        self.fleet.deliver(number)

    @precondition(lambda self: self.fleet.queues[Place.OWN])
    @rule()
    def the_chosen_worker_has_no_room(self) -> None:
        self.fleet.dead_letter(self.fleet.queues[Place.OWN].popleft())

    @precondition(lambda self: self.fleet.find(0, may_generate))
    @rule(number=WORKERS, tokens=st.integers(1, 3))
    def a_worker_generates(self, number: int, tokens: int) -> None:
        worker = self.fleet.find(number, may_generate)
        assert worker is not None
        self.fleet.generate(worker, tokens)

    @precondition(lambda self: self.fleet.replies)
    @rule()
    def a_reply_arrives(self) -> None:
        self.hear()

    @precondition(lambda self: len({instance for instance, _ in self.fleet.replies}) > 1)
    @rule()
    def another_workers_reply_comes_first(self) -> None:
        replies = self.fleet.replies
        index = next(index for index, (instance, _) in enumerate(replies) if instance != replies[0][0])
        reply = replies[index]
        del replies[index]
        replies.appendleft(reply)

    @precondition(lambda self: self.fleet.find(0, lambda worker: worker.orders))
    @rule(number=WORKERS, gives_back=st.booleans())
    def an_order_arrives(self, number: int, gives_back: bool) -> None:
        worker = self.fleet.find(number, lambda worker: worker.orders)
        assert worker is not None
        self.fleet.obey(worker, gives_back=gives_back)

    @precondition(lambda self: self.fleet.news and self.fleet.receives)
    @rule()
    def news_of_the_fleet(self) -> None:
        self.hear_news()

    @precondition(lambda self: self.fleet.outcomes)
    @rule()
    def the_broker_answers_a_publish(self) -> None:
        self.hear_outcome()

    @rule(moves=st.lists(st.tuples(st.sampled_from(MOVES), WORKERS), min_size=3, max_size=12), gives_back=st.booleans())
    def many_messages_move(self, moves: list[tuple[str, int]], gives_back: bool) -> None:
        """A run has some rules only, and few have all that an answer needs."""
        fleet = self.fleet
        for move, number in moves:
            match move:
                case "take" if any(fleet.queues.values()):
                    fleet.deliver(number)
                case "generate" if worker := fleet.find(number, may_generate):
                    fleet.generate(worker, 1)
                case "hear" if fleet.replies:
                    self.hear()
                case "obey" if worker := fleet.find(number, lambda worker: worker.orders):
                    fleet.obey(worker, gives_back=gives_back)
                case "news" if fleet.news and fleet.receives:
                    self.hear_news()

    @precondition(lambda self: self.fleet.sends and self.fleet.receives)
    @rule()
    def half_a_second_passes_in_peace(self) -> None:
        self.everything_moves(tokens=1)

    # --- rules: what goes wrong

    def victim(self, number: int) -> WorkerModel:
        holder = self.fleet.find(number, holds) if number >= len(self.fleet.workers) else None
        return holder or self.fleet.workers[number % len(self.fleet.workers)]

    @rule(number=VICTIMS)
    def a_worker_dies_and_another_process_takes_its_place(self, number: int) -> None:
        worker = self.victim(number)
        self.fleet.die(worker, "obituary")
        self.fleet.news.append(("announce", worker.instance))

    @rule(number=VICTIMS)
    def a_worker_leaves_with_requests_running(self, number: int) -> None:
        self.fleet.die(self.victim(number), "goodbye")
        self.has_left = True

    @precondition(lambda self: self.fleet.find(0, holds))
    @rule(number=WORKERS)
    def a_workers_channel_of_requests_closes(self, number: int) -> None:
        worker = self.fleet.find(number, holds)
        assert worker is not None
        self.fleet.void(worker)
        self.fleet.news.append(("announce after a requeue", worker.instance))

    @rule(number=VICTIMS, is_heard=st.booleans())
    def a_workers_connection_is_cut(self, number: int, is_heard: bool) -> None:
        """What it held is at another one at once; whether the controller hears of that, or of its return, first."""
        self.fleet.cut(self.victim(number))
        if any(self.fleet.queues.values()):
            self.fleet.deliver((number + 1) % 3)
        while is_heard and self.fleet.news and self.fleet.receives:
            self.hear_news()

    @rule(number=VICTIMS)
    def a_worker_answers_a_roll_call(self, number: int) -> None:
        self.fleet.news.append(("announce", self.victim(number).instance))

    @precondition(lambda self: self.fleet.find(0, has_asked))
    @rule(number=WORKERS)
    def a_workers_question_is_said_twice(self, number: int) -> None:
        worker = self.fleet.find(number, has_asked)
        assert worker is not None
        assert worker.held is not None
        self.fleet.ask(worker, worker.held)

    @precondition(lambda self: self.fleet.replies and isinstance(self.fleet.replies[0][1], Started | Texts))
    @rule()
    def a_reply_is_lost(self) -> None:
        self.fleet.replies.popleft()

    @precondition(lambda self: self.fleet.replies and isinstance(self.fleet.replies[0][1], Started | Texts | End))
    @rule()
    def a_reply_comes_twice(self) -> None:
        self.fleet.replies.append(self.fleet.replies[0])

    @precondition(lambda self: self.fleet.receives and self.fleet.find(0, is_running))
    @rule(number=WORKERS, kind=st.sampled_from(FAILURES))
    def an_answer_ends_as_a_failure(self, number: int, kind: FailureKind) -> None:
        worker = self.fleet.find(number, is_running)
        assert worker is not None
        self.fleet.fail(worker, kind)

    @precondition(lambda self: self.fleet.find(0, is_running))
    @rule(number=WORKERS)
    def an_engine_says_that_it_works(self, number: int) -> None:
        worker = self.fleet.find(number, is_running)
        assert worker is not None
        self.fleet.say_that_it_works(worker)

    @rule(number=WORKERS)
    def the_queue_is_lost_and_made_anew(self, number: int) -> None:
        lost, number = (Place.PINNED, 0) if self.life.place is Place.PINNED else (Place.MODEL, number)
        self.fleet.queues[lost].clear()
        self.fleet.news.append(("announce with a new queue", self.fleet.workers[number].instance))

    @rule()
    def the_models_queue_is_full_or_is_so_no_more(self) -> None:
        self.fleet.full = not self.fleet.full

    @rule()
    def the_other_queues_are_missing_or_there_again(self) -> None:
        self.fleet.missing_queues = not self.fleet.missing_queues

    @precondition(lambda self: self.fleet.sends)
    @rule()
    def the_publishing_connection_is_lost(self) -> None:
        self.fleet.sends = False
        self.fleet.outcomes.clear()

    @precondition(lambda self: self.fleet.receives)
    @rule()
    def the_consuming_connection_is_lost(self) -> None:
        self.fleet.receives = False
        self.fleet.replies.clear()
        self.fleet.news.clear()

    @precondition(lambda self: not (self.fleet.sends and self.fleet.receives))
    @rule()
    def both_connections_are_there_again(self) -> None:
        self.fleet.sends = self.fleet.receives = self.was_away = True
        with self.witness.event(what="reconnect"):
            self.carry_out(self.life.on_reconnect(self.fleet.now))

    @rule(number=WORKERS, copies_are_lost=st.sampled_from([False, False, True]), is_heard=st.booleans())
    def all_connections_are_lost_for_a_moment(self, number: int, copies_are_lost: bool, is_heard: bool) -> None:
        self.fleet.lose_all_connections(number, copies_are_lost=copies_are_lost)
        self.both_connections_are_there_again()
        while is_heard and self.fleet.replies:
            self.hear()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.5, 6.0, 16.0, 31.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def time_passes_and_the_queue_is_read(self, seconds: float) -> None:
        self.pass_time(seconds, is_queue_empty=not self.fleet.queues[Place.MODEL])

    @rule(seconds=st.sampled_from([0.5, 6.0]))
    def time_passes_without_workers(self, seconds: float) -> None:
        self.pass_time(seconds, has_worker=False)

    @precondition(lambda self: self.life.attempt > 2 or self.fleet.find(0, has_asked))
    @rule()
    def the_client_leaves(self) -> None:
        with self.witness.event():
            self.carry_out(self.life.cancel())

    # --- what stays true

    @invariant()
    def the_client_has_a_prefix_of_the_answer(self) -> None:
        self.witness.check_answer(complete=self.complete)

    def steps_until_free(self, seconds: float) -> bool:
        """Whether nobody holds the request, which is over, within this time."""
        for _ in range(int(seconds / STEP)):
            if not self.fleet.find(0, holds):
                return True
            self.everything_moves()
        return False

    def teardown(self) -> None:
        """All are well again: the request ends long before its deadline, and no slot is held for it."""
        if not hasattr(self, "life"):
            return
        fleet = self.fleet
        fleet.full = fleet.missing_queues = False
        if not (fleet.sends and fleet.receives):
            self.both_connections_are_there_again()
        # Of who said goodbye and still had it, nothing but its silence tells that it has gone.
        patience = Limits().first_token if self.has_left else 0.0
        for _ in range(int((patience + 20.0) / STEP)):
            if self.over:
                break
            self.everything_moves()
        assert self.over, "its client waits, and nobody runs it, or too late"
        assert not isinstance(self.error, DeadlineError) or fleet.now >= fleet.deadline
        assert not self.garbage.counts
        # Whose question or answer was lost on the way asks again; whose controller was gone waits for a sign of it.
        patience = ASK_AGAIN if self.was_away else 0.0
        if any(worker.controller_gone_at is not None for worker in fleet.workers):
            patience = GRACE
        assert self.steps_until_free(patience + 5.0), "a slot is held for a request that is over"
        self.the_client_has_a_prefix_of_the_answer()


AnyOrder.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnyOrder = AnyOrder.TestCase
