"""Requests out, answers in: carries out what `lifecycle` decides, and hands every chunk to whoever waits for it.

The HTTP surfaces call `submit`; `reply_reader` feeds it what workers say, `fleet` what happens to workers. It knows
no HTTP. Everything runs on one event loop.
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from broker_controller.admission import check_ability, choose_place, expects_progress
from broker_controller.decisions import Action, Broadcast, GiveUp, Limits, Place, Publish, Stage, Tell
from broker_controller.errors import (
    BrokerUnavailableError,
    DeadlineError,
    InternalError,
    ModelNotFoundError,
    OverloadedError,
    RequestTooLargeError,
    ServiceError,
    ShuttingDownError,
)
from broker_controller.lifecycle import RequestLife
from broker_controller.links import Links
from broker_controller.registry import Registry
from broker_controller.request_sender import RequestSender, Submission
from broker_controller.streams import GenerationStream
from broker_controller.waiting_line import WaitingLine, shown
from broker_controller.watched_clock import WatchedClock
from broker_controller.whereabouts import Whereabouts
from broker_controller.worker_record import RecordState
from broker_wire.amqp.channel import Outcome
from broker_wire.messages import Done, Pause, Resend, Resume

_log = logging.getLogger(__name__)

SWEEP_INTERVAL = 0.5
"""Seconds between two looks at all clocks; deadlines are kept this precisely."""
RETRY_AFTER = 5.0
"""Seconds that a client is told to wait while the broker cannot be used."""

SMALL_BODY = 64 * 1024
"""Bytes that are read of any body, however much is held: heartbeats are no load."""


class Gateway:
    """All requests of this controller process."""

    def __init__(
        self,
        controller_id: str,
        links: Links,
        registry: Registry,
        *,
        choose_worker: Callable[[str], str | None],
        limits: Limits,
        max_inflight_bytes: int,
        watched: WatchedClock,
        queue_lengths: Callable[[], Mapping[str, int]],
        empty_queues: Callable[[], Container[str]],
    ) -> None:
        self.controller_id = controller_id
        self.streams: dict[int, GenerationStream] = {}
        self._links = links
        self._registry = registry
        self._choose_worker = choose_worker
        self._limits = limits
        self._max_inflight_bytes = max_inflight_bytes
        self._inflight_bytes = 0
        self._unread: list[GenerationStream] = []
        """Answers that are complete here, and that their clients still have to read."""
        self._unread_bytes = 0
        self._sender = RequestSender(links, registry, watched, self._on_published)
        self._empty_queues = empty_queues
        self._line = WaitingLine(queue_lengths, links.topology.bounds.max_length)
        self._latest = 0
        self._requests: dict[int, Submission] = {}
        self._done: defaultdict[str, list[int]] = defaultdict(list)
        self._lacking: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
        self._whereabouts: Whereabouts[int] = Whereabouts()
        self._unreachable: set[str] = set()
        self.watched = watched
        """The clock for stalls, grace and expiry."""
        self._leaving = self._refusing = False
        self._idle = asyncio.Event()
        self._finished = 0
        self._failed = 0
        links.on_both_up.append(self._on_both_up)
        links.on_blocked.append(self._on_blocked)
        links.on_down.append(watched.stop)

    # --- for the HTTP surfaces

    async def submit(self, submission: Submission) -> GenerationStream:
        """Send a request on its way; returns as soon as it is in the socket's buffer.

        Raises: ShuttingDownError, BrokerUnavailableError, OverloadedError, BadRequestError, WorkerNotFoundError,
            RequestTooLargeError.
        """
        self._refuse_if_unable(submission)
        check_ability(submission, self._registry)
        now = time.monotonic()
        self._latest += 1
        number = self._latest
        place, worker = choose_place(submission, self._registry, self._choose_worker)
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
        stream = GenerationStream(life, on_cancel=self._cancel, on_flow=self._set_flow)
        self._keep(stream, len(submission.body))
        self._requests[number] = submission
        self.streams[number] = stream
        self._idle.clear()
        self.carry_out(stream, life.begin())
        if stream.finished:
            await stream.wait()
        return stream

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Callable[[int], None]]:
        """While a request's body comes in: what it gives has to be told how many bytes have come.

        Raises: OverloadedError, where it is told.
        """
        size = 0

        def count(more: int) -> None:
            nonlocal size
            if size + more > SMALL_BODY:
                self._refuse_if_full(more)
            size += more
            self._inflight_bytes += more

        try:
            yield count
        finally:
            self._inflight_bytes -= size

    @property
    def ready(self) -> bool:
        """Requests can be taken: the broker is there and takes messages, and this controller is not leaving."""
        return self._links.up and not self._links.blocked and not self._leaving

    def leave(self) -> None:
        """Be ready no more. What comes all the same is taken, until `refuse`."""
        self._leaving = True

    def refuse(self) -> None:
        """Take nothing new; what runs goes on."""
        self._refusing = True

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
            "inflight_bytes": self._inflight_bytes + self._unread_bytes,
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
                case Tell(instance, Resend(streams=lacking)):
                    self._ask_again(instance, lacking)
                case Tell(instance, message):
                    self._links.send_control(
                        self._links.topology.instance_key(instance), message, partial(self._on_told, instance)
                    )
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
        self._inflight_bytes -= stream.kept_bytes
        if stream.unread:
            self._unread.append(stream)
            self._unread_bytes += stream.unread
        self._registry.note_finished((self.controller_id, life.stream))
        if life.instance:
            self._done[life.instance].append(life.stream)

    def was_here(self, number: int) -> bool:
        """Whether this controller gave the number to a request, which may be over."""
        return 0 < number <= self._latest

    def complete(self, stream: GenerationStream) -> None:
        """The last frame came."""
        stream.life.finish()
        self._finished += 1
        self._line.note_finished(stream.model, time.monotonic())
        self.close(stream)

    def count(self, size: int) -> None:
        """More bytes are kept for a request."""
        self._inflight_bytes += size

    def on_worker_gone(self, instance: str, *, in_order: bool) -> None:
        """A worker's connection closed; `in_order` when it said goodbye."""
        watched = self.watched()
        for stream in self._streams_at(instance):
            self.carry_out(stream, stream.life.on_obituary(instance, watched, in_order=in_order))
            if stream.life.is_without_worker:
                stream.notice()

    def on_announce(self, instance: str, made_queues: frozenset[str]) -> None:
        """A worker announced itself; `made_queues` are the models whose queue it had to make."""
        self._unreachable.discard(instance)
        # A queue that was made anew concerns everybody who waits, wherever they have been.
        for stream in list(self.streams.values()) if made_queues else self._streams_at(instance):
            self.carry_out(stream, stream.life.on_announce(instance, stream.model in made_queues))
            self._repeat_flow(stream)

    # --- tasks

    async def run(self) -> None:
        """Look at the clocks until cancelled; then every request that is left fails."""
        try:
            while True:
                await asyncio.sleep(SWEEP_INTERVAL)
                self._sweep()
                self._send_done()
        finally:
            for stream in list(self.streams.values()):
                self.shut_down(stream)

    def _sweep(self) -> None:
        self._unread = [stream for stream in self._unread if stream.unread]
        self._unread_bytes = sum(stream.unread for stream in self._unread)
        unreachable, self._unreachable = self._unreachable, set()
        for instance in unreachable:
            self.on_worker_gone(instance, in_order=False)
        now = time.monotonic()
        watched = self.watched()
        served: dict[str, bool] = {}
        self._line.look_ahead(self.streams.values(), now)
        self._for_each(self.streams.values(), lambda stream: self._sweep_one(stream, now, watched, served))

    def _sweep_one(self, stream: GenerationStream, now: float, watched: float, served: dict[str, bool]) -> None:
        life = stream.life
        if stream.paused or not expects_progress(self._requests[life.stream], self._registry.get(life.worker)):
            life.note_progress(watched)
        is_empty = life.model in self._empty_queues()
        self.carry_out(
            stream, life.sweep(now, watched, self._has_worker(life, watched, served), is_queue_empty=is_empty)
        )
        if stream.gap_since is not None and watched - stream.gap_since > 1.0 and life.stage is Stage.RUNNING:
            stream.gap_since = watched
            self.carry_out(stream, [life.missing()])

    def _has_worker(self, life: RequestLife, watched: float, served: dict[str, bool]) -> bool:
        if life.place is Place.PINNED:
            record = self._registry.get(life.target)
            return record is not None and record.state is RecordState.READY
        if life.model not in served:
            # An HTTP worker that is not bridged at this moment is away, though it is registered.
            served[life.model] = any(record.instance for record in self._registry.workers_for(life.model, watched))
        return served[life.model]

    def _for_each(self, streams: Iterable[GenerationStream], act: Callable[[GenerationStream], None]) -> None:
        for stream in list(streams):
            try:
                act(stream)
            except Exception:  # noqa: BLE001  a fault in the life of one request must not end those of all others
                _log.exception("request given up for a fault of ours request=%s", stream.request_id)
                error = InternalError("it was given up: this controller has a bug", subject=stream.life.subject)
                self._fail(stream, error)

    def _send_done(self) -> None:
        if not self._links.up:
            # It would be dropped, and the workers would keep what is over for their time of grace.
            return
        done, self._done = self._done, defaultdict(list)
        for instance, numbers in done.items():
            message = Done(self.controller_id, tuple(numbers))
            self._links.send_control(self._links.topology.instance_key(instance), message)

    # --- inside

    def _refuse_if_unable(self, submission: Submission) -> None:
        if self._refusing:
            raise ShuttingDownError("it was not taken: this controller is about to leave")
        if self._links.blocked or not self._links.ever_connected:
            raise self._unavailable()
        self._refuse_if_full(len(submission.body))

    def _unavailable(self) -> BrokerUnavailableError:
        return BrokerUnavailableError(f"it was not taken: {self._links.problem}", retry_after=RETRY_AFTER)

    def _refuse_if_full(self, more: int) -> None:
        held = self._inflight_bytes + self._unread_bytes
        if held + more > self._max_inflight_bytes:
            text = (
                f"it was not taken: this controller holds {held} bytes of requests and answers, "
                f"and may hold {self._max_inflight_bytes}"
            )
            raise OverloadedError(text, retry_after=RETRY_AFTER)

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
            life.accepted = True
        if outcome not in (Outcome.RETURNED, Outcome.NACKED):
            return
        if outcome is Outcome.RETURNED:
            watched = self.watched()
            is_served = self._has_worker(life, watched, {})
            if life.place is Place.MODEL:
                # An HTTP worker that has just registered is bridged in a moment.
                is_served = is_served or bool(self._registry.workers_for(life.model, watched))
            self.carry_out(stream, life.on_returned(attempt, watched, is_served=is_served))
        else:
            self.carry_out(stream, life.on_nacked(attempt, self._line.retry_when_full(life.model, time.monotonic())))

    def _ask_again(self, instance: str, lacking: tuple[tuple[int, int, int], ...]) -> None:
        """One message for all that a worker has to send again: after a reconnect it is every stream that it runs."""
        if not self._lacking:
            asyncio.get_running_loop().call_soon(self._send_lacking)
        self._lacking[instance].extend(lacking)

    def _send_lacking(self) -> None:
        lacking, self._lacking = self._lacking, defaultdict(list)
        for instance, streams in lacking.items():
            message = Resend(self.controller_id, tuple(streams))
            key = self._links.topology.instance_key(instance)
            self._links.send_control(key, message, partial(self._on_told, instance))

    def _on_told(self, instance: str, outcome: Outcome) -> None:
        if outcome is Outcome.RETURNED:
            # Once for all that comes back of a thousand orders: at the next sweep.
            self._unreachable.add(instance)

    def _on_both_up(self) -> None:
        self._let_time_run()
        now = time.monotonic()
        self._for_each(self.streams.values(), lambda stream: self._on_reconnect(stream, now))

    def _on_reconnect(self, stream: GenerationStream, now: float) -> None:
        self.carry_out(stream, stream.life.on_reconnect(now))
        self._repeat_flow(stream)

    def _on_blocked(self, blocked: bool) -> None:
        if blocked:
            self.watched.stop()
            self._for_each(self.streams.values(), self._refuse_if_not_accepted)
        else:
            self._let_time_run()

    def _refuse_if_not_accepted(self, stream: GenerationStream) -> None:
        """The broker tells of an alarm only whoever publishes: the request that found out need not wait for its end."""
        life = stream.life
        if life.stage is Stage.WAITING and not life.accepted:
            error = self._unavailable().about(life.subject)
            self.carry_out(stream, [*life.cancel(), GiveUp(error)])

    def _let_time_run(self) -> None:
        """Either trouble may outlast the other: an alarm a reconnect, or a lost connection an alarm."""
        if self._links.up and not self._links.blocked:
            self.watched.run()

    def _streams_at(self, instance: str) -> list[GenerationStream]:
        return [self.streams[number] for number in self._whereabouts.at(instance)]

    def _follow(self, stream: GenerationStream) -> None:
        life = stream.life
        if not self._whereabouts.note(life.stream, life.instance):
            return
        if life.moves:
            stream.notice()
        if stream.paused:
            # The worker that has it now has not heard that its client reads too slowly.
            self._set_flow(stream, False)

    def _repeat_flow(self, stream: GenerationStream) -> None:
        """What was said while either side had no connection was not heard."""
        if stream.was_paused:
            self._set_flow(stream, not stream.paused)

    def _cancel(self, stream: GenerationStream) -> None:
        life = stream.life
        _log.info("client left request=%s stream=%d stage=%s", life.request_id, life.stream, life.stage.name.lower())
        self.carry_out(stream, life.cancel())

    def _set_flow(self, stream: GenerationStream, flows: bool) -> None:
        life = stream.life
        if life.stage is not Stage.RUNNING:
            return
        kind = Resume if flows else Pause
        self._links.send_control(
            self._links.topology.instance_key(life.instance), kind(self.controller_id, life.stream)
        )

    def _fail(self, stream: GenerationStream, error: ServiceError) -> None:
        self._failed += 1
        if isinstance(error, ModelNotFoundError):
            served = ", ".join(sorted(self._registry.models())) or "none"
            error.cause += f"; served now: {served}"
        if isinstance(error, DeadlineError) and error.retry_after is None:
            error.retry_after = self._line.retry_after_deadline(stream.life, time.monotonic())
        _log.info("request failed request=%s error=%s text=%s", stream.request_id, type(error).__name__, error)
        stream.fail(error)
        self.close(stream)

    def _keep(self, stream: GenerationStream, size: int) -> None:
        stream.kept_bytes = size
        self._inflight_bytes += size
