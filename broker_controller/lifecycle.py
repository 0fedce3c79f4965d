"""The life of one request, from accepted to over, as a state machine: what happened goes in, what to do comes out.

Pure: no I/O and no clock, the time is passed in (seconds, monotonic). `gateway` feeds it and carries the actions out.

    WAITING ──started──> RUNNING ──end──────────> OVER
       ^                    │
       └── gone, stalled ───┘      cancelled, deadline, failed: from anywhere to OVER

A request has one owner, this controller, and one attempt that counts. Every copy of it that a worker holds carries the
attempt it was published with; `go` and every new publish raise the number, and whatever carries a lower one is fenced.
"""

from broker_controller.assembler import MAX_REPEATED, Assembler
from broker_controller.decisions import (
    PATIENCE,
    Action,
    Broadcast,
    GiveUp,
    Limits,
    Place,
    Presence,
    Publish,
    Stage,
    Tell,
)
from broker_controller.errors import (
    DeadlineError,
    EngineError,
    EngineRefusedError,
    ModelNotFoundError,
    PoisonError,
    QueueFullError,
    ServiceError,
    Subject,
    WorkerLostError,
    WorkerNotFoundError,
)
from broker_controller.stage_words import progress, they_died, where
from broker_controller.suspicion import Suspicion
from broker_wire.messages import Ask, Cancel, Failed, FailureKind, Go, Resend, ResumeMode, Started, Stop

RETRY_AFTER = 5.0
"""Seconds that a client whom a full queue refused is told to wait."""


class RequestLife:
    """One request. Every method returns what is to be done now, in order."""

    def __init__(
        self,
        *,
        controller: str,
        stream: int,
        request_id: str,
        model: str,
        place: Place,
        target: str,
        deadline: float,
        now: float,
        limits: Limits,
        resume: ResumeMode | None = None,
    ) -> None:
        self.controller = controller
        self.stream = stream
        self.request_id = request_id
        self.model = model
        self.place = place
        self.target = target
        """The worker that was chosen, "" for whoever is free."""
        self.deadline = deadline
        self.resume = resume
        """How the client wants an answer that has begun to go on elsewhere; None leaves it to the model."""
        self.submitted_at = now
        self.started_at: float | None = None
        self.stage = Stage.WAITING
        self.attempt = 1
        self.copy = 0
        """The attempt that the running copy was published with."""
        self.worker = ""
        """Who has it, or had it last."""
        self.instance = ""
        """Whose process has it now."""
        self.answer = Assembler()
        self.moves = 0
        self.accepted = False
        """The broker has confirmed it once: from then on it waits for the end of any trouble."""
        self.why_moved = ""
        """The last time, where it was not by a redelivery."""
        self._strikes = 0
        self._engine_retries = 0
        self._suspicion = Suspicion(limits.max_kills)
        self._limits = limits
        self._last_progress = 0.0
        self._lost_at: float | None = None
        self._presence = Presence.SURE
        self._left_in_order = False
        self._held: Ask | None = None
        self._hold_until = 0.0
        self._no_worker_since: float | None = None
        self._refused = False
        self._taken_since: float | None = None
        """As far as can be known, somebody has taken it."""
        self._patience_factor = 1
        self._returned_since: float | None = None

    @property
    def subject(self) -> Subject:
        """What an error says that happens to it now."""
        stage = where(self.stage, worker=self.worker, chunks=self.answer.next_seq, queued=self.accepted)
        return Subject(self.request_id, self.model, stage)

    @property
    def is_without_worker(self) -> bool:
        """It has begun, and who ran it is lost, or was left: it will go on elsewhere."""
        return self._lost_at is not None or (self.stage is Stage.WAITING and bool(self.worker))

    # --- what the broker says of a publish

    def begin(self) -> list[Action]:
        """Send it for the first time."""
        return [self._publish()]

    def on_returned(self, attempt: int, watched: float = 0.0, *, is_served: bool = False) -> list[Action]:
        """No queue was bound: nobody serves the model, or the chosen worker's queue is gone.

        `is_served`: somebody says that he serves it. Then the queue was deleted, or is not there yet, and will be.
        """
        if self.stage is not Stage.WAITING or attempt != self.attempt:
            return []
        if self.place in (Place.OWN, Place.RESUME):
            return self._send_again(Place.MODEL)
        if self._returned_since is None:
            self._returned_since = watched
        if is_served and watched - self._returned_since < self._limits.grace:
            self._refused = True
            return []
        if self.answer.next_seq:
            return self._give_up(self._error(WorkerLostError, "no other worker serves the model"))
        if self.place is Place.PINNED:
            return self._give_up(self._error(WorkerNotFoundError, f"worker {self.target!r} is not here"))
        return self._give_up(self._error(ModelNotFoundError, "no worker serves it"))

    def on_nacked(self, attempt: int, retry_after: float = RETRY_AFTER) -> list[Action]:
        """The queue is at its bound. What was accepted once is not refused later: `sweep` tries again.

        `retry_after`: seconds until there may be a place again.
        """
        if self.stage is not Stage.WAITING or attempt != self.attempt:
            return []
        if attempt > 1:
            self._refused = True
            return []
        text = "it was not taken, as many requests as may wait are waiting"
        return self._give_up(QueueFullError(text, retry_after=retry_after, subject=self.subject))

    # --- what a worker says

    def on_started(self, frame: Started, now: float, watched: float) -> list[Action]:
        """A worker took the request."""
        if self.stage is Stage.OVER or frame.attempt != self.attempt:
            return [self._stop(frame.instance, frame.attempt)]
        if self.stage is Stage.RUNNING:
            return [] if frame.instance == self.instance else [self._stop(frame.instance, frame.attempt)]
        self._run(frame.worker, frame.instance, now, watched, copy=frame.attempt)
        return []

    def on_ask(self, frame: Ask, now: float, watched: float) -> list[Action]:
        """A worker holds a copy that may have run before: may it start?"""
        if self.stage is Stage.OVER:
            return [self._stop(frame.instance, frame.attempt)]
        if self.stage is Stage.RUNNING:
            if frame.attempt != self.copy or (self._presence is Presence.BACK and frame.instance != self.instance):
                return [self._stop(frame.instance, frame.attempt)]
            if now < self._hold_until and frame.instance != self.instance:
                self._held = frame
                return []
        return self._hand_over(frame, now, watched)

    def on_gone(self, attempt: int, instance: str) -> list[Action]:
        """The worker that should run it does not hold it."""
        if self.stage is not Stage.RUNNING or attempt != self.attempt or instance != self.instance:
            return []
        return self._move("the worker no longer had the stream")

    def on_given_back(self, attempt: int, instance: str) -> list[Action]:
        """The worker that had `go` has put the request back: its copy will be somebody's."""
        self._suspicion.on_alive(instance)
        if self.stage is Stage.RUNNING and attempt == self.attempt and instance == self.instance:
            self.stage = Stage.WAITING
            self.instance = ""
        return []

    def on_failed(self, frame: Failed) -> list[Action]:
        """The last frame of the counting attempt says that it went wrong."""
        self.answer.next_seq -= 1  # this frame was no part of the answer
        said = f"worker {self.worker!r} says: {frame.message}"
        match frame.kind:
            case FailureKind.REQUEST:
                return self._give_up(self._error(EngineRefusedError, said))
            case FailureKind.ENGINE:
                if self._may_retry_engine():
                    self._engine_retries += 1
                    return self._move(f"its engine said: {frame.message}", counts=False)
                return self._give_up(self._error(EngineError, said))
            case FailureKind.DIVERGED | FailureKind.NOT_RESUMABLE:
                return self._give_up(self._error(WorkerLostError, said))
            case FailureKind.DEADLINE:
                return self._give_up(self._error(DeadlineError, said))
            case FailureKind.NOT_SERVED:
                return self._move(frame.message)

    def _may_retry_engine(self) -> bool:
        """Nothing was sent, so that nobody can tell; what is for one worker would meet the same engine."""
        has_sent = self.answer.next_seq > 0
        return (
            not has_sent and self.place is not Place.PINNED and self._engine_retries < self._limits.max_engine_retries
        )

    def stale(self, attempt: int) -> bool:
        """Whether a frame of this attempt is to be dropped: fenced, or the request is over."""
        return self.stage is Stage.OVER or attempt != self.attempt

    def note_progress(self, watched: float) -> None:
        """A frame of the counting attempt came."""
        self._last_progress = watched

    def note_alive(self, watched: float) -> None:
        """No progress is expected: its engine is held for the sake of a slow client, or answers in one piece."""
        self._last_progress = watched

    def missing(self) -> Tell:
        """Ask the worker for what did not come."""
        wanted = ((self.stream, self.attempt, self.answer.next_seq),)
        return Tell(self.instance, Resend(self.controller, wanted))

    def finish(self) -> list[Action]:
        """The last frame came."""
        self.stage = Stage.OVER
        return self._stop_held()

    # --- news of the fleet and the connection

    def on_obituary(self, instance: str, watched: float, *, in_order: bool) -> list[Action]:
        """The connection of a worker closed. If it runs this: wait for the redelivery, for `grace` at most.

        `in_order`: it said goodbye before, so this is no death that a request could be blamed for.
        """
        if self.stage is Stage.OVER:
            return []
        if self.stage is Stage.RUNNING and instance == self.instance:
            self._presence = Presence.DOUBTED
            if in_order:
                # Who gave its name up finishes what it has; from who has really gone the copy comes back.
                self._left_in_order = True
            elif self._lost_at is None:
                self._lost_at = watched
            return []
        if not in_order and self._suspicion.on_obituary(instance, watched):
            return self._end_as_poison()
        return []

    def on_announce(self, instance: str, made_model_queue: bool) -> list[Action]:
        """A worker is there (again). If it had to make the model's queue, what waited in an earlier one is gone."""
        self._suspicion.on_alive(instance)
        if self.stage is Stage.WAITING:
            return self._send_again(self.place) if made_model_queue else []
        if self.stage is Stage.RUNNING and instance == self.instance:
            # Its copy may still lie in the queue, for want of a free slot: whoever gets it is not to begin again.
            if self._presence is Presence.DOUBTED:
                self._presence = Presence.BACK
            self._lost_at = None
            actions: list[Action] = [self.missing()]
            return actions + self._stop_held()
        return []

    def on_reconnect(self, now: float) -> list[Action]:
        """We have a new reply queue: what was sent to the old one is lost, and so are transient requests."""
        if self.stage is Stage.WAITING:
            return self._send_again(self.place)
        if self.stage is Stage.RUNNING:
            self._hold_until = now + self._limits.hold
            self._presence = Presence.DOUBTED
            return [self.missing()]
        return []

    # --- the client and the clock

    def cancel(self) -> list[Action]:
        """The client left."""
        if self.stage is Stage.OVER:
            return []
        return self._end_everywhere()

    def sweep(self, now: float, watched: float, has_worker: bool, *, is_queue_empty: bool = False) -> list[Action]:
        """Look at the clocks.

        Args:
            now: for the deadline, which nothing stops.
            watched: for stalls and grace; it stands still while the broker holds publishers back.
            has_worker: whether anybody serves the model; of a pinned request, whether its worker does.
            is_queue_empty: whether nothing was in the model's queue when it was last read.
        """
        if self.stage is Stage.OVER:
            return []
        if now >= self.deadline:
            error = self._error(DeadlineError, f"its time of {self.deadline - self.submitted_at:g} s was up")
            return [*self._end_everywhere(), GiveUp(error)]
        if self.stage is Stage.WAITING:
            return self._sweep_waiting(now, watched, has_worker, is_queue_empty)
        return self._sweep_running(now, watched)

    def _sweep_waiting(self, now: float, watched: float, has_worker: bool, is_queue_empty: bool) -> list[Action]:
        if self._held is not None:
            return self._hand_over(self._held, now, watched)
        if not has_worker:
            return self._wait_for_workers(watched)
        self._no_worker_since = None
        if self._refused:
            return [self._publish()]
        if self.place is Place.PINNED or (self.place is Place.MODEL and not is_queue_empty):
            self._taken_since = None
            return []
        if self._taken_since is None:
            self._taken_since = watched
        if watched - self._taken_since < PATIENCE[self.place] * self._patience_factor:
            return []
        if self.place is Place.RESUME:
            self._patience_factor *= 2
            return self._send_again(Place.RESUME)
        return self._send_again(Place.MODEL)

    def _wait_for_workers(self, watched: float) -> list[Action]:
        if self._no_worker_since is None:
            self._no_worker_since = watched
        error_type: type[ServiceError] = ModelNotFoundError
        who, patience = "all workers of the model have left, and none came back", self._limits.worker_wait
        if self.place is Place.PINNED:
            error_type = WorkerNotFoundError
            who, patience = f"worker {self.target!r} has left, and did not come back", self._limits.grace
        if watched - self._no_worker_since < patience:
            return []
        if self.answer.next_seq:
            error_type = WorkerLostError
        error = self._error(error_type, f"{who} in {patience:g} s")
        return [*self._end_everywhere(), GiveUp(error)]

    def _sweep_running(self, now: float, watched: float) -> list[Action]:
        if self._held is not None and now >= self._hold_until:
            return self._hand_over(self._held, now, watched)
        if self._lost_at is not None:
            if watched - self._lost_at < self._limits.grace:
                return []
            return self._leave_behind(watched) or self._move("the worker was lost", counts=False)
        limit = self._limits.between_tokens if self.answer.next_seq else self._limits.first_token
        if watched - self._last_progress < limit:
            return []
        return self._move(f"the worker made no progress for {limit:g} s")

    # --- moves

    def _run(self, worker: str, instance: str, now: float, watched: float, *, copy: int) -> None:
        self.stage = Stage.RUNNING
        self.worker, self.instance, self.copy = worker, instance, copy
        self._last_progress = watched
        self._suspicion.on_start(watched)
        self._lost_at = None
        self._left_in_order = False
        self._presence = Presence.SURE
        self._no_worker_since = self._taken_since = self._returned_since = None
        self._patience_factor = 1
        self._refused = False
        if self.started_at is None:
            self.started_at = now

    def _hand_over(self, ask: Ask, now: float, watched: float) -> list[Action]:
        """The copy that asks goes on, unless the request ends by that: then its slot is not to wait, either."""
        held, self._held = self._held, None
        actions: list[Action] = []
        if held is not None and held.instance != ask.instance:
            actions.append(self._stop(held.instance, held.attempt))
        if self.stage is Stage.RUNNING and ask.instance != self.instance:
            actions += self._leave_behind(watched)
        if self.stage is not Stage.OVER:
            actions += self._grant(ask, now, watched)
        if self.stage is Stage.OVER:
            actions.append(self._stop(ask.instance, ask.attempt))
        return actions

    def _grant(self, ask: Ask, now: float, watched: float) -> list[Action]:
        if self._cannot_go_on:
            return self._give_up_unresumable("the worker was lost")
        former, former_attempt = self.instance, self.attempt
        was_running = self.stage is Stage.RUNNING
        actions: list[Action] = []
        if not was_running or former != ask.instance:
            self.attempt += 1
            self.moves += was_running
            if was_running:
                actions.append(self._stop(former, former_attempt))
        # Who asks again gets the same answer: its question was said twice, or our answer was lost on the way.
        self._run(ask.worker, ask.instance, now, watched, copy=ask.attempt)
        apart = self._suspicion.apart
        answer = self.answer
        go = Go(self.controller, self.stream, self.attempt, answer.next_seq, answer.text, apart, answer.choices)
        return [Tell(ask.instance, go), *actions]

    def _leave_behind(self, watched: float) -> list[Action]:
        """Its copy came back, or the time of grace is over: the worker is dead, or gave the request back."""
        if self._left_in_order:
            return []
        is_poison = self._suspicion.on_left(
            self.instance, watched, worker=self.worker, is_dead=self._lost_at is not None
        )
        return self._end_as_poison() if is_poison else []

    def _end_as_poison(self) -> list[Action]:
        # The worker that has it now lives: the news of the last death may have come after the copy.
        subject = Subject(self.request_id, self.model, progress(self.answer.next_seq))
        text = f"{they_died(self._suspicion.killed)}, and it is not tried again"
        error = PoisonError(text, subject=subject)
        return [*self._end_everywhere(), GiveUp(error)]

    def _move(self, reason: str, *, counts: bool = True) -> list[Action]:
        """Take it from the worker that has it, and send it to whoever is free.

        `counts`: against the number of moves that it has; a death does not, it has its own count.
        """
        stop = self._stop(self.instance, self.attempt)
        self.why_moved = reason
        if self._cannot_go_on:
            return [stop, *self._give_up_unresumable(reason)]
        self._strikes += counts
        if self._strikes > self._limits.max_moves:
            return [stop, *self._give_up_moving(f"{reason}, and it had moved {self.moves} times already")]
        if self.place is Place.PINNED:
            return [stop, *self._give_up_moving(f"{reason}, and it was for this worker only")]
        self.moves += 1
        self.stage = Stage.WAITING
        self.instance = ""
        if self._held is not None:
            # Somebody has a copy already, and only waits to hear of it: the next sweep.
            self.attempt += 1
            return [stop]
        return [stop, *self._send_again(Place.RESUME)]

    def _give_up_moving(self, why: str) -> list[Action]:
        return self._give_up(self._error(WorkerLostError, why))

    def _send_again(self, place: Place) -> list[Action]:
        self.place = place
        self.attempt += 1
        return [self._publish()]

    def _publish(self) -> Publish:
        self._refused = False
        self._taken_since = None
        has_begun = self.answer.next_seq > 0 or self._suspicion.apart > 0
        return Publish(self.place, self.attempt, ask_first=has_begun or self.place is Place.RESUME)

    def _stop(self, instance: str, attempt: int) -> Tell:
        return Tell(instance, Stop(self.controller, self.stream, attempt))

    def _end_everywhere(self) -> list[Action]:
        running = self.stage is Stage.RUNNING
        self.stage = Stage.OVER
        if running:
            return [self._stop(self.instance, self.attempt), *self._stop_held()]
        remembered = max(1.0, self.deadline - self.submitted_at)
        return [Broadcast(Cancel(self.controller, self.stream, remembered))]

    def _stop_held(self) -> list[Action]:
        held, self._held = self._held, None
        return [] if held is None else [self._stop(held.instance, held.attempt)]

    def _give_up(self, error: ServiceError) -> list[Action]:
        self.stage = Stage.OVER
        return [*self._stop_held(), GiveUp(error)]

    def _give_up_unresumable(self, reason: str) -> list[Action]:
        why = f"more than {MAX_REPEATED} characters and bytes of it have been sent, too many to repeat elsewhere"
        if self.resume is ResumeMode.NEVER:
            why = "it was asked for with X-Resume: never"
        text = f"{reason} in the middle of the answer, and {why}"
        return self._give_up(self._error(WorkerLostError, text))

    @property
    def _cannot_go_on(self) -> bool:
        return self.answer.next_seq > 0 and (self.resume is ResumeMode.NEVER or not self.answer.resumable)

    def _error(self, kind: type[ServiceError], cause: str) -> ServiceError:
        return kind(cause, subject=self.subject)
