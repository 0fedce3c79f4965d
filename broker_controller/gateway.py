"""Requests out, answers in: carries out what `lifecycle` decides, and hands every chunk to whoever waits for it.

The HTTP surfaces call `submit`; `reply_reader` feeds it what workers say, `fleet` what happens to workers. It knows
no HTTP. Everything runs on one event loop.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from broker_controller.admission import Glance, check_ability, choose_place, expects_progress
from broker_controller.decisions import Action, Broadcast, GiveUp, Limits, Place, Publish, Stage, Tell
from broker_controller.door import Door
from broker_controller.errors import (
    DeadlineError,
    InternalError,
    ModelNotFoundError,
    RequestTooLargeError,
    ServiceError,
    ShuttingDownError,
)
from broker_controller.inflight_bytes import InflightBytes
from broker_controller.lifecycle import RequestLife
from broker_controller.links import Links
from broker_controller.orders import Orders
from broker_controller.registry import Registry
from broker_controller.request_sender import RequestSender, Submission
from broker_controller.session_key import SessionKey
from broker_controller.slow_readers import SlowReaders
from broker_controller.streams import GenerationStream
from broker_controller.tally import Tally
from broker_controller.waiting_line import WaitingLine, shown
from broker_controller.watched_clock import WatchedClock
from broker_controller.whereabouts import Whereabouts
from broker_wire.amqp.channel import Outcome
from broker_wire.messages import Announce, Started

_log = logging.getLogger(__name__)

SWEEP_INTERVAL = 0.5
"""Seconds between two looks at all clocks; deadlines are kept this precisely."""


class Gateway:
    """All requests of this controller process."""

    def __init__(
        self,
        controller_id: str,
        links: Links,
        registry: Registry,
        *,
        choose_worker: Callable[[str, SessionKey | None], str | None],
        note_served: Callable[[SessionKey, str], None],
        limits: Limits,
        max_inflight_bytes: int,
        watched: WatchedClock,
        queue_lengths: Callable[[], Mapping[str, int]],
        empty_queues: Callable[[], Container[str]],
        tally: Tally,
    ) -> None:
        self.controller_id = controller_id
        self.streams: dict[int, GenerationStream] = {}
        self.inflight = InflightBytes(max_inflight_bytes)
        """What all of them hold."""
        self.door = Door(links, self.inflight)
        self._links = links
        self._registry = registry
        self._choose_worker = choose_worker
        self._note_served = note_served
        self._limits = limits
        self._sender = RequestSender(links, registry, watched, self._on_published)
        self._empty_queues = empty_queues
        self.tally = tally
        """What became of all that there were."""
        self._line = WaitingLine(queue_lengths, links.topology.bounds.max_length)
        self._latest = 0
        self._requests: dict[int, Submission] = {}
        self._orders = Orders(controller_id, links)
        self._slow_readers = SlowReaders(controller_id, links)
        # One object for all streams: looked up on `self`, a method is a new one each time.
        self._on_cancel = self._cancel
        self._on_flow = self._slow_readers.set_flow
        self._whereabouts: Whereabouts[int] = Whereabouts()
        self.watched = watched
        """The clock for stalls, grace and expiry."""
        self._idle = asyncio.Event()
        self._finished = 0
        self._failed = 0
        links.on_both_up.append(self._on_both_up)
        links.on_blocked.append(self._on_blocked)

    # --- for the HTTP surfaces

    async def submit(self, submission: Submission) -> GenerationStream:
        """Send a request on its way; returns as soon as it is in the socket's buffer.

        Raises: ShuttingDownError, BrokerUnavailableError, OverloadedError, BadRequestError, WorkerNotFoundError,
            RequestTooLargeError.
        """
        try:
            self.door.check(len(submission.body))
            check_ability(submission, self._registry)
            place, worker = choose_place(submission, self._registry, self._choose_worker)
        except ServiceError as error:
            self.tally.on_rejected(submission.model, error)
            raise
        now = time.monotonic()
        number = self.next_number()
        life = RequestLife(
            controller=self.controller_id,
            stream=number,
            request_id=submission.request_id,
            model=submission.model,
            place=place,
            target=worker,
            deadline=now + submission.timeout,
            now=now,
            limits=self._limits.for_model(submission.model),
            resume=submission.resume,
        )
        life.answer.preload(submission.had)
        stream = GenerationStream(life, on_cancel=self._on_cancel, on_flow=self._on_flow, own_times=self.tally.overhead)
        self.inflight.on_taken(stream, len(submission.body) + life.answer.size)
        self._requests[number] = submission
        self.streams[number] = stream
        self._idle.clear()
        self.carry_out(stream, life.begin())
        stream.sent()
        if stream.finished:
            await stream.wait()
        return stream

    def next_number(self) -> int:
        """Of a request, or of a question about a model: unique in this process."""
        self._latest += 1
        return self._latest

    def shut_down(self, stream: GenerationStream) -> None:
        """This controller goes before the answer is complete."""
        error = ShuttingDownError("this controller has shut down", subject=stream.life.subject)
        self.carry_out(stream, [*stream.life.cancel(), GiveUp(error)])

    async def drained(self, timeout: float) -> bool:
        """Wait until no request is left; False after `timeout` seconds."""
        if self.streams:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout)
        return not self.streams

    def status(self) -> dict[str, Any]:
        """What `/status` shows of requests, for people and programs."""
        lives = [stream.life for stream in self.streams.values()]
        return {
            "running": sum(life.stage is Stage.RUNNING for life in lives),
            "waiting": sum(life.stage is Stage.WAITING for life in lives),
            "finished": self._finished,
            "failed": self._failed,
            "inflight_bytes": self.inflight.total,
            "waiting_requests": shown(self.streams.values()),
        }

    def forecast(self, model: str) -> float | None:
        """Seconds, about, until a new request for this model would start; None while no rate is known."""
        return self._line.forecast(model, time.monotonic())

    # --- for the reply reader and the fleet

    def carry_out(self, stream: GenerationStream, actions: Iterable[Action]) -> None:
        """Do what the life of this request decided."""
        for action in actions:
            match action:
                case Publish():
                    self._publish(stream, action)
                case Tell(instance, message):
                    self._orders.tell(instance, message)
                case Broadcast(message):
                    self._links.send_control(self._links.topology.model_key(stream.model), message)
                    self.close(stream)
                case GiveUp(error):
                    self._fail(stream, error)
        if stream.over:
            self.close(stream)
        elif stream.life.instance and stream.life.stream in self.streams:
            self._follow(stream)

    def close(self, stream: GenerationStream) -> None:
        """Nothing more comes of it: forget it, and let its worker forget what it kept."""
        life = stream.life
        if self.streams.pop(life.stream, None) is None:
            return
        del self._requests[life.stream]
        self._whereabouts.forget(life.stream)
        if not self.streams:
            self._idle.set()
        self.inflight.on_closed(stream)
        self._registry.note_finished((self.controller_id, life.stream))
        if life.instance:
            self._orders.note_over(life.instance, life.stream)

    def was_here(self, number: int) -> bool:
        """Whether this controller gave the number to a request, which may be over."""
        return 0 < number <= self._latest

    def on_started(self, stream: GenerationStream, frame: Started, now: float, watched: float) -> None:
        """A worker has started it; `now` is of the deadlines' clock."""
        life = stream.life
        self.carry_out(stream, life.on_started(frame, now, watched))
        if life.instance == frame.instance and not life.stale(frame.attempt):
            # It may have waited for that since we let it, and forgotten what it was told in the meantime.
            self._slow_readers.on_start(stream)

    def complete(self, stream: GenerationStream) -> None:
        """The last frame came."""
        self._finished += 1
        now = time.monotonic()
        self._line.note_finished(stream.model, now)
        self.tally.on_complete(stream, now)
        self.carry_out(stream, stream.life.finish())

    def on_worker_gone(self, instance: str, *, in_order: bool) -> None:
        """A worker's connection closed; `in_order` when it said goodbye."""
        watched = self.watched()

        def tell(stream: GenerationStream) -> None:
            self.carry_out(stream, stream.life.on_obituary(instance, watched, in_order=in_order))
            if stream.life.is_without_worker:
                stream.notice()

        self._for_each(self._streams_at(instance), tell)

    def on_announce(self, announce: Announce) -> None:
        """A worker announced itself, and says which queues it had to make."""
        self._orders.on_announce(announce.instance)

        def tell(stream: GenerationStream) -> None:
            life = stream.life
            if life.place is Place.PINNED:
                made_queue = announce.made_pinned_queue and life.target == announce.worker
            else:
                made_queue = life.model in announce.made_queues
            actions = life.on_announce(announce.instance, made_queue=made_queue, requeued=announce.requeued)
            self.carry_out(stream, actions)
            self._slow_readers.repeat(stream)

        # A queue that was made anew concerns everybody who waits, wherever they have been.
        made_any = announce.made_queues or announce.made_pinned_queue
        self._for_each(self.streams.values() if made_any else self._streams_at(announce.instance), tell)

    def ask_again(self, stream: GenerationStream) -> None:
        """A part of its answer has not arrived."""
        self.tally.repairs += 1
        self.carry_out(stream, [stream.life.missing()])

    # --- tasks

    async def run(self) -> None:
        """Look at the clocks until cancelled; then every request that is left fails."""
        try:
            while True:
                await asyncio.sleep(SWEEP_INTERVAL)
                self._sweep()
                self._orders.send_done()
        finally:
            for stream in list(self.streams.values()):
                self.shut_down(stream)

    def _sweep(self) -> None:
        self.inflight.look_at_readers()
        for instance in self._orders.take_unreachable():
            self.on_worker_gone(instance, in_order=False)
        now = time.monotonic()
        watched = self.watched()
        glance = Glance(self._registry, watched)
        self._line.look_ahead(self.streams.values(), now)
        self._for_each(self.streams.values(), lambda stream: self._sweep_one(stream, now, watched, glance))

    def _sweep_one(self, stream: GenerationStream, now: float, watched: float, glance: Glance) -> None:
        stream.look(now)
        life = stream.life
        if stream.paused or not expects_progress(self._requests[life.stream], self._registry.get(life.worker)):
            life.note_progress(watched)
        is_empty = life.model in self._empty_queues()
        self.carry_out(stream, life.sweep(now, watched, glance.has_worker(life), is_queue_empty=is_empty))
        if stream.gap_since is not None and watched - stream.gap_since > 1.0 and life.stage is Stage.RUNNING:
            stream.gap_since = watched
            self.ask_again(stream)

    def _for_each(self, streams: Iterable[GenerationStream], act: Callable[[GenerationStream], None]) -> None:
        for stream in list(streams):
            try:
                act(stream)
            except Exception:  # noqa: BLE001  a fault in the life of one request must not end those of all others
                _log.exception("request given up for a fault of ours request=%s", stream.request_id)
                error = InternalError("it was given up: this controller has a bug", subject=stream.life.subject)
                self._fail(stream, error)

    # --- inside

    def _publish(self, stream: GenerationStream, action: Publish) -> None:
        if action.place is Place.RESUME:
            _log.warning("request moves request=%s reason=%s", stream.request_id, stream.life.why_moved)
            stream.notice()
        try:
            self._sender.send(stream.life, self._requests[stream.life.stream], action)
        except RequestTooLargeError as error:
            self._fail(stream, error)

    def _on_published(self, number: int, attempt: int, outcome: Outcome) -> None:
        stream = self.streams.get(number)
        if stream is None:
            return
        life = stream.life
        # A LOST one needs nothing here: after the reconnect every request that waits is sent again.
        if outcome is Outcome.CONFIRMED:
            life.on_confirmed(attempt)
        if outcome not in (Outcome.RETURNED, Outcome.NACKED):
            return
        if outcome is Outcome.RETURNED:
            watched = self.watched()
            is_served = Glance(self._registry, watched).may_have_worker(life)
            self.carry_out(stream, life.on_returned(attempt, watched, is_served=is_served))
        else:
            retry_after = self._line.retry_when_full(life.model, time.monotonic())
            may_be_full = self._line.may_be_full(life.model)
            self.carry_out(stream, life.on_nacked(attempt, retry_after, may_be_full=may_be_full))

    def _on_both_up(self) -> None:
        now = time.monotonic()
        self._for_each(self.streams.values(), lambda stream: self._on_reconnect(stream, now))

    def _on_reconnect(self, stream: GenerationStream, now: float) -> None:
        self.carry_out(stream, stream.life.on_reconnect(now))
        self._slow_readers.repeat(stream)

    def _on_blocked(self, blocked: bool) -> None:
        if blocked:
            self._for_each(self.streams.values(), self._refuse_if_not_accepted)

    def _refuse_if_not_accepted(self, stream: GenerationStream) -> None:
        """The broker tells of an alarm only whoever publishes: the request that found out need not wait for its end."""
        life = stream.life
        if life.stage is Stage.WAITING and not life.accepted:
            error = self.door.broker_unavailable().about(life.subject)
            self.carry_out(stream, [*life.cancel(), GiveUp(error)])

    def _streams_at(self, instance: str) -> list[GenerationStream]:
        return [self.streams[number] for number in self._whereabouts.at(instance)]

    def _follow(self, stream: GenerationStream) -> None:
        life = stream.life
        if not self._whereabouts.note(life.stream, life.instance):
            return
        if (session := self._requests[life.stream].session) is not None:
            self._note_served(session, life.worker)
        if life.moves:
            stream.notice()
        self._slow_readers.on_start(stream)

    def _cancel(self, stream: GenerationStream) -> None:
        life = stream.life
        _log.info("client left request=%s stream=%d stage=%s", life.request_id, life.stream, life.stage.name.lower())
        self.tally.on_left(stream)
        self.carry_out(stream, life.cancel())

    def _fail(self, stream: GenerationStream, error: ServiceError) -> None:
        self._failed += 1
        if isinstance(error, ModelNotFoundError):
            served = ", ".join(sorted(self._registry.models())) or "none"
            error.cause += f"; served now: {served}"
        if isinstance(error, DeadlineError) and error.retry_after is None:
            error.retry_after = self._line.retry_after_deadline(stream.life, time.monotonic())
        _log.info("request failed request=%s error=%s text=%s", stream.request_id, type(error).__name__, error)
        self.tally.on_failed(stream, error)
        stream.fail(error)
        self.close(stream)
