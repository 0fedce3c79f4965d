"""The life of one request, from accepted to over, as a state machine: what happened goes in, what to do comes out.

Pure: no I/O and no clock, the time is passed in (seconds, monotonic). `gateway` feeds it and carries the actions out.

    WAITING ──started──> RUNNING ──end──────────> OVER
       ^                    │
       └── gone, stalled ───┘      cancelled, deadline, failed: from anywhere to OVER

A request has one owner, this controller, and one attempt that counts. Every copy of it that a worker holds carries the
attempt it was published with; `go` and every new publish raise the number, and whatever carries a lower one is fenced.
"""

from broker_controller import endings
from broker_controller.assembler import Assembler
from broker_controller.contact import Contact, Presence
from broker_controller.decisions import Action, Broadcast, GiveUp, Limits, Place, Publish, Stage, Tell
from broker_controller.errors import RETRY_AFTER, ServiceError, Subject
from broker_controller.patience import Due, Patience
from broker_controller.stage_words import progress, where
from broker_controller.suspicion import Suspicion
from broker_wire.messages import Ask, Cancel, Failed, FailureKind, Go, Resend, ResumeMode, Started, Stop


class RequestLife:
    """One request. Every method returns what is to be done now, in order."""

    __slots__ = (
        "_contact",
        "_engine_retries",
        "_held",
        "_hold_until",
        "_limits",
        "_patience",
        "_strikes",
        "_suspicion",
        "_upstream_deaths",
        "_was_nacked",
        "accepted",
        "answer",
        "attempt",
        "controller",
        "copy",
        "deadline",
        "instance",
        "model",
        "moves",
        "place",
        "request_id",
        "resume",
        "stage",
        "started_at",
        "stream",
        "submitted_at",
        "target",
        "why_moved",
        "worker",
    )

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
        self._was_nacked = False
        self._strikes = 0
        self._engine_retries = 0
        self._upstream_deaths = 0
        self._suspicion = Suspicion(limits.max_kills)
        self._limits = limits
        self._patience = Patience(limits)
        self._contact = Contact(now)
        self._held: Ask | None = None
        self._hold_until = 0.0

    @property
    def subject(self) -> Subject:
        """What an error says that happens to it now."""
        stage = where(self.stage, worker=self.worker, chunks=self.answer.next_seq, queued=self.accepted)
        return Subject(self.request_id, self.model, stage)

    @property
    def is_without_worker(self) -> bool:
        """It has begun, and who ran it is lost, or was left: it will go on elsewhere."""
        return self._contact.is_lost or (self.stage is Stage.WAITING and bool(self.worker))

    # --- what the broker says of a publish

    def begin(self) -> list[Action]:
        """Send it for the first time."""
        return [self._publish()]

    def on_returned(self, attempt: int, watched: float = 0.0, *, is_served: bool = False) -> list[Action]:
        """No queue was bound: nobody serves the model, or the chosen worker's queue is gone.

        `is_served`: somebody says that he serves it. Then the queue was deleted, or is not there yet, or its node of
        the cluster is down: it will be there again, and `sweep` tries again until then.
        """
        if self.stage is not Stage.WAITING or attempt != self.attempt:
            return []
        if self.place in (Place.OWN, Place.RESUME):
            return self._send_again(Place.MODEL)
        if self._patience.on_returned(self.place, watched, is_served=is_served):
            return []
        return self._give_up(endings.no_queue(self.subject, self.place, self.target, has_begun=self._has_begun))

    def on_confirmed(self, attempt: int) -> None:
        """A queue took it."""
        self.accepted = True
        if attempt == self.attempt:
            self._patience.on_taken()

    def on_nacked(self, attempt: int, retry_after: float = RETRY_AFTER, *, may_be_full: bool = True) -> list[Action]:
        """The queue is at its bound, or its node of the cluster has just died: the broker says the same of both.

        What was accepted once is not refused later: `sweep` tries again, and once where it does not look full.

        `retry_after`: seconds until there may be a place again.
        """
        if self.stage is not Stage.WAITING or attempt != self.attempt:
            return []
        if attempt > 1 or not (may_be_full or self._was_nacked):
            self._was_nacked = True
            self._patience.on_refused()
            return []
        return self._give_up(endings.queue_full(self.subject, retry_after))

    # --- what a worker says

    def on_started(self, frame: Started, now: float, watched: float) -> list[Action]:
        """A worker took the request."""
        if self.stage is Stage.OVER or frame.attempt != self.attempt:
            return [self._stop(frame.instance, frame.attempt)]
        if self.stage is Stage.RUNNING and frame.instance != self.instance:
            return [self._stop(frame.instance, frame.attempt)]
        if self.stage is Stage.WAITING:
            self._run(frame.worker, frame.instance, now, watched, copy=frame.attempt)
        self._suspicion.on_start(watched)
        return []

    def on_ask(self, frame: Ask, now: float, watched: float) -> list[Action]:
        """A worker holds a copy that may have run before: may it start?"""
        if self.stage is Stage.OVER:
            return [self._stop(frame.instance, frame.attempt)]
        if self.stage is Stage.RUNNING:
            is_its_own = frame.instance == self.instance
            # Who asks for a newer copy has dropped the older one: the answer to that is the answer to this.
            is_wanted = frame.attempt == self.copy or (is_its_own and frame.attempt > self.copy)
            if not is_wanted or (self._contact.presence is Presence.BACK and not is_its_own):
                return [self._stop(frame.instance, frame.attempt)]
            if now < self._hold_until and not is_its_own:
                former, self._held = self._held, frame
                return [self._stop(former.instance, former.attempt)] if former and former != frame else []
        return self._hand_over(frame, now, watched)

    def on_gone(self, attempt: int, instance: str) -> list[Action]:
        """The worker that should run it does not hold it."""
        if self.stage is not Stage.RUNNING or attempt != self.attempt or instance != self.instance:
            return []
        return self._move("the worker no longer had the stream", is_there=True)

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
        match frame.kind:
            case FailureKind.NOT_SERVED:
                return self._move(frame.message)
            case FailureKind.LOST:
                return self._on_upstream_death(frame)
            case FailureKind.ENGINE if self._may_retry_engine():
                self._engine_retries += 1
                return self._move(f"its engine said: {frame.message}", counts=False)
            case _:
                return self._give_up(endings.failed(self.subject, self.worker, frame))

    def _on_upstream_death(self, frame: Failed) -> list[Action]:
        """It may be this request that kills what workers have behind them; that runs others, too: nobody can tell."""
        self._upstream_deaths += 1
        if self._upstream_deaths >= self._limits.max_kills:
            return self._give_up(endings.died_too_often(self.subject, self.worker, frame, self._upstream_deaths))
        return self._move(frame.message, counts=False)

    def _may_retry_engine(self) -> bool:
        """Nothing was sent, so that nobody can tell; what is for one worker would meet the same engine."""
        may_move = not self._has_begun and self.place is not Place.PINNED
        return may_move and self._engine_retries < self._limits.max_engine_retries

    def stale(self, attempt: int) -> bool:
        """Whether a frame of this attempt is to be dropped: fenced, or the request is over."""
        return self.stage is Stage.OVER or attempt != self.attempt

    def note_progress(self, watched: float) -> None:
        """A frame of the counting attempt came.

        Or none is expected: its engine is held for the sake of a slow client, or answers in one piece.
        """
        self._contact.last_progress = watched

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
            self._contact.on_obituary(watched, in_order=in_order)
            return []
        if not in_order and self._suspicion.on_obituary(instance, watched):
            return self._end_as_poison()
        return []

    def on_announce(self, instance: str, *, made_queue: bool, requeued: bool = False) -> list[Action]:
        """A worker is there (again).

        `made_queue`: it had to make the model's queue (of a pinned request, its own): what waited in an earlier one
        is gone. `requeued`: copies of what it runs are in the queues.
        """
        self._suspicion.on_alive(instance)
        if self.stage is Stage.WAITING:
            return self._send_again(self.place) if made_queue else []
        if self.stage is Stage.RUNNING and instance == self.instance:
            self._contact.on_announce(requeued=requeued)
            return [self.missing(), *self._stop_held()]
        return []

    def on_reconnect(self, now: float) -> list[Action]:
        """We have a new reply queue: what was sent to the old one is lost, and so are transient requests."""
        if self.stage is Stage.WAITING:
            return self._send_again(self.place)
        if self.stage is Stage.RUNNING:
            self._hold_until = now + self._limits.hold
            self._contact.on_our_reconnect()
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
            return self._end_as(endings.time_up(self.subject, self.deadline - self.submitted_at))
        if self.stage is Stage.WAITING:
            return self._sweep_waiting(now, watched, has_worker, is_queue_empty)
        return self._sweep_running(now, watched)

    def _sweep_waiting(self, now: float, watched: float, has_worker: bool, is_queue_empty: bool) -> list[Action]:
        if self._held is not None:
            return self._hand_over(self._held, now, watched)
        patience, place = self._patience, self.place
        match patience.look(place, watched, has_worker=has_worker, is_queue_empty=is_queue_empty):
            case Due.NOTHING:
                return []
            case Due.SAME_AGAIN:
                return [self._publish()]
            case Due.NEW_COPY:
                return self._send_again(Place.RESUME if place is Place.RESUME else Place.MODEL)
            case Due.END:
                seconds, has_begun = patience.for_worker(place), self._has_begun
                return self._end_as(endings.nobody_came(self.subject, place, self.target, seconds, has_begun=has_begun))

    def _sweep_running(self, now: float, watched: float) -> list[Action]:
        if self._held is not None and now >= self._hold_until:
            return self._hand_over(self._held, now, watched)
        if self._contact.is_lost:
            if self._contact.lost_for(watched) < self._limits.grace:
                return []
            return self._leave_behind(watched) or self._move("the worker was lost", counts=False)
        limit = self._limits.between_tokens if self._has_begun else self._limits.first_token
        if self._contact.silent_for(watched) < limit:
            return []
        return self._move(f"the worker made no progress for {limit:g} s")

    # --- moves

    def _run(self, worker: str, instance: str, now: float, watched: float, *, copy: int) -> None:
        self.stage = Stage.RUNNING
        self.worker, self.instance, self.copy = worker, instance, copy
        self._contact = Contact(watched)
        self._patience = Patience(self._limits)
        self._suspicion.on_permission()
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
            return self._give_up(endings.cannot_go_on(self.subject, "the worker was lost", self.resume))
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
        if self._contact.left_in_order:
            return []
        is_dead = self._contact.is_lost
        is_poison = self._suspicion.on_left(self.instance, watched, worker=self.worker, is_dead=is_dead)
        return self._end_as_poison() if is_poison else []

    def _end_as_poison(self) -> list[Action]:
        # The worker that has it now lives: the news of the last death may have come after the copy.
        subject = Subject(self.request_id, self.model, progress(self.answer.next_seq))
        return self._end_as(endings.poison(subject, self._suspicion.killed))

    def _move(self, reason: str, *, counts: bool = True, is_there: bool = False) -> list[Action]:
        """Take it from the worker that has it, and send it to whoever is free.

        `counts`: against the number of moves that it has; a death does not, it has its own count.
        `is_there`: the worker lives, and may have it again: what is for this worker only goes back to it.
        """
        stop = self._stop(self.instance, self.attempt)
        self.why_moved = reason
        if self._cannot_go_on:
            return [stop, *self._give_up(endings.cannot_go_on(self.subject, reason, self.resume))]
        self._strikes += counts
        if self._strikes > self._limits.max_moves:
            return [stop, *self._give_up(endings.moved_too_often(self.subject, reason, self.moves))]
        is_pinned = self.place is Place.PINNED
        if is_pinned and not is_there:
            return [stop, *self._give_up(endings.may_not_move(self.subject, reason))]
        self.moves += 1
        self.stage = Stage.WAITING
        self.instance = ""
        if self._held is not None:
            # Somebody has a copy already, and only waits to hear of it: the next sweep.
            self.attempt += 1
            return [stop]
        return [stop, *self._send_again(Place.PINNED if is_pinned else Place.RESUME)]

    def _send_again(self, place: Place) -> list[Action]:
        self.place = place
        self.attempt += 1
        return [self._publish()]

    def _publish(self) -> Publish:
        self._patience.on_publish()
        asks = self._has_begun or self._suspicion.apart > 0 or self.place is Place.RESUME
        return Publish(self.place, self.attempt, ask_first=asks)

    def _stop(self, instance: str, attempt: int) -> Tell:
        return Tell(instance, Stop(self.controller, self.stream, attempt))

    def _end_everywhere(self) -> list[Action]:
        running = self.stage is Stage.RUNNING
        self.stage = Stage.OVER
        if running:
            return [self._stop(self.instance, self.attempt), *self._stop_held()]
        remembered = max(1.0, self.deadline - self.submitted_at)
        return [*self._stop_held(), Broadcast(Cancel(self.controller, self.stream, remembered))]

    def _stop_held(self) -> list[Action]:
        held, self._held = self._held, None
        return [] if held is None else [self._stop(held.instance, held.attempt)]

    def _give_up(self, error: ServiceError) -> list[Action]:
        self.stage = Stage.OVER
        return [*self._stop_held(), GiveUp(error)]

    def _end_as(self, error: ServiceError) -> list[Action]:
        return [*self._end_everywhere(), GiveUp(error)]

    @property
    def _has_begun(self) -> bool:
        """A part of the answer has come."""
        return self.answer.next_seq > 0

    @property
    def _cannot_go_on(self) -> bool:
        return self._has_begun and (self.resume is ResumeMode.NEVER or not self.answer.resumable)
