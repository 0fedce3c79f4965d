"""The requests that this worker holds, each from its delivery to its ack: who starts, who asks first, who stops.

    delivery ──fresh──────────────> RUNNING ──end confirmed, engine back──> acked
        └─────redelivered──> ASKING ──go──┘└──stop, cancel, abandoned──> LEAVING ──engine back──> acked
                               └──go, apart────> APART ──nobody else runs apart──> RUNNING

`intake` hands deliveries in, `orders` what controllers say, `outbox` what became of the answers. All on the broker's
loop; it does no I/O of its own. A slot is taken from the delivery until the engine's thread has really come back.
"""

import logging
import time
from collections.abc import Callable, Container

from broker_wire import codec
from broker_wire.amqp import Delivery
from broker_wire.errors import GarbageError
from broker_wire.garbage import GarbageBin
from broker_wire.messages import Ask, FailureKind, GivenBack, Go, Started
from workers_shim.apart import SUSPECT_WAIT, Apart
from workers_shim.controller_links import ControllerLinks
from workers_shim.held import Desk, Held, Stage, check_controller
from workers_shim.outbox import Outbox
from workers_shim.outgoing import Outgoing
from workers_shim.slot_decisions import Lease
from workers_shim.stream import Assignment, Executor
from workers_shim.tombstones import MAX_SECONDS, Key, Tombstones

_log = logging.getLogger(__name__)

ASK_TIMEOUT = 5.0
"""Seconds without an answer after which a worker asks again."""
SLOT_LOST_AFTER = 30.0
"""Seconds that an engine which was told to stop has to come back in, before an operator is told of the slot."""


class Custody:
    """One a worker.

    Args:
        models: names of the models that are served now.
        watched: seconds that count for waiting times.
        on_change: called when the load has changed.
    """

    def __init__(
        self,
        worker: str,
        instance: str,
        executor: Executor,
        models: Container[str],
        links: ControllerLinks,
        garbage: GarbageBin,
        *,
        watched: Callable[[], float],
        on_change: Callable[[], None],
        ask_timeout: float = ASK_TIMEOUT,
        suspect_wait: float = SUSPECT_WAIT,
        tombstones: Tombstones,
    ) -> None:
        self.requests_done = 0
        self._worker = worker
        self._instance = instance
        self._executor = executor
        self._models = models
        self._links = links
        self._garbage = garbage
        self._watched = watched
        self.on_change = on_change
        self._ask_timeout = ask_timeout
        self._apart = Apart(suspect_wait, self._run, self._give_back)
        self._tombstones = tombstones
        self._current: dict[Key, Held] = {}
        """By request; the newest attempt."""
        self._by_outgoing: dict[Outgoing, Held] = {}
        """Those whose engine was started, until they are over."""
        self.outbox: Outbox
        self.desk: Desk

    @property
    def empty(self) -> bool:
        """No request is held."""
        return not (self._current or self._by_outgoing)

    @property
    def wanted(self) -> bool:
        """Some request is held that somebody wants."""
        return bool(self._current)

    # --- from the delivery to the start or the stop

    def take(self, lease: Lease[Delivery]) -> None:
        """A delivery that has a slot."""
        delivery = lease.delivery
        try:
            generate = codec.decode_request(delivery.body, delivery.content_type)
            # It is the routing key of every reply.
            check_controller(generate.controller)
        except GarbageError as error:
            self._garbage.drop("requests", error)
            self._refuse(lease)
            return
        now = time.monotonic()
        held = Held(lease, generate, now + min(generate.remaining, MAX_SECONDS))
        former = self._current.get(held.key)
        # A question that is under way may be granted already: then a start of this copy would be fenced off by it.
        has_question = former is not None and former.stage is Stage.ASKING
        if not generate.remaining > 0 or self._tombstones.holds(held.key, now):
            # The controller's own clock has told the client; or the client has left.
            self._refuse(lease)
        elif self._is_copy(held):
            self._refuse(lease)
        elif delivery.redelivered or generate.ask_first or delivery.dead_lettered or has_question:
            self._current[held.key] = held
            self._ask(held)
        else:
            self._run(held, Go(*held.key, attempt=held.attempt))
        self.on_change()

    def find(self, key: Key) -> Held | None:
        """The newest attempt at this request that is held here and wanted."""
        return self._current.get(key)

    def grant(self, held: Held, go: Go) -> None:
        """It asked, and may start; of two that must run apart one waits, or nobody could tell which of them kills."""
        if go.apart > 0 and self._apart.busy:
            held.attempt, held.stage = go.attempt, Stage.APART
            self._apart.wait(held, go)
        else:
            self._run(held, go)

    def stop(self, held: Held) -> None:
        """Nobody wants it. Its slot is free when the engine has come back."""
        if held.outgoing is None:
            self._forget(held)
            self._refuse(held.lease)
            return
        held.stage, held.since = Stage.LEAVING, time.monotonic()
        self._links.drop(held.outgoing)
        if self._current.get(held.key) is held:
            del self._current[held.key]
        if held.go is not None:
            # Its engine has not begun, and so has nothing to come back from.
            held.go, held.released = None, True
        if held.released:
            self._finish(held)

    def _is_copy(self, held: Held) -> bool:
        """Whether this worker has the request already. A newer attempt takes the place of an older one."""
        former = self._current.get(held.key)
        if former is not None:
            # Of two copies of one attempt the one that runs, or has asked, goes on. Its own tag may be void.
            if held.generate.attempt <= max(former.attempt, former.generate.attempt):
                return True
            self.stop(former)
            return False
        kept = self._links.find(held.key)
        # It ran to its end here, and its controller can still have all of it.
        return kept is not None and held.generate.attempt <= kept.attempt

    def _refuse(self, lease: Lease[Delivery]) -> None:
        self.desk.ack(lease)
        self.desk.free(lease)
        self.on_change()

    def _ask(self, held: Held) -> None:
        held.since = self._watched()
        self.outbox.note(held.key[0], Ask(held.key[1], held.attempt, self._worker, self._instance))

    def _run(self, held: Held, go: Go) -> None:
        """Say so first, then begin: a controller that is gone, or wants it no more, is known after one round trip."""
        controller, stream = held.key
        held.attempt, held.stage = go.attempt, Stage.RUNNING
        if go.apart > 0:
            self._apart.began(held, go.apart)
        outgoing = Outgoing(
            controller, stream, go.attempt, go.next_seq, ready=self.outbox.ready, released=self.outbox.released
        )
        held.outgoing = outgoing
        self._current[held.key] = self._by_outgoing[outgoing] = held
        self._links.add(outgoing)
        if held.generate.model not in self._models:
            outgoing.fail(FailureKind.NOT_SERVED, f"worker {self._worker!r} does not serve {held.generate.model!r}")
            outgoing.released()
            return
        self.outbox.note(controller, Started(stream, go.attempt, self._worker, self._instance))
        if go.apart > 0:
            # Who has begun is charged with the death of this worker: that is to be known before it can kill.
            held.go = go
        else:
            self._begin(held, outgoing, go)

    def _begin(self, held: Held, outgoing: Outgoing, go: Go) -> None:
        suspect = go.apart > 0
        work = Assignment(held.generate, go.attempt, go.next_seq, go.text, suspect, held.deadline, go.choices)
        self._executor.start(work, outgoing)

    def on_start_confirmed(self, key: Key, note: Started) -> None:
        """The controller's queue has the news: what runs apart begins."""
        held = self._current.get(key)
        if held is not None and held.go is not None and held.outgoing is not None and self.is_current(key, note):
            go, held.go = held.go, None
            self._apart.began(held, go.apart)
            self._begin(held, held.outgoing, go)

    # --- what became of the answers

    def on_released(self, outgoing: Outgoing) -> None:
        """The engine's thread has come back."""
        held = self._by_outgoing.get(outgoing)
        if held is None:
            return
        held.released = True
        if held.stage is Stage.LEAVING or outgoing.settled:
            self._finish(held)
        elif outgoing.holding:
            self.desk.free(held.lease)

    def on_settled(self, outgoing: Outgoing) -> None:
        """All of it is in the controller's queue, or with the controller."""
        held = self._by_outgoing.get(outgoing)
        if held is not None and held.released:
            self._finish(held)

    def on_held(self, outgoing: Outgoing) -> None:
        """Its controller is gone and may return for the end of it; that needs no slot."""
        held = self._by_outgoing.get(outgoing)
        if held is not None and held.released:
            self.desk.free(held.lease)

    def on_abandoned(self, outgoing: Outgoing) -> None:
        """Its controller did not come back."""
        held = self._by_outgoing.get(outgoing)
        if held is not None:
            _log.warning("request abandoned %s reason=its controller is gone", held)
            self.stop(held)

    def on_note_returned(self, key: Key, note: Started | Ask) -> None:
        """Its controller is gone before anything was sent: a slot is not held for that."""
        held = self._current.get(key)
        if held is not None and self.is_current(key, note):
            _log.info("request dropped %s reason=its controller is gone", held)
            self.stop(held)

    def is_current(self, key: Key, note: Started | Ask) -> bool:
        """Whether it still is as the note says."""
        held = self._current.get(key)
        if held is None or held.attempt != note.attempt:
            return False
        return held.stage is (Stage.RUNNING if isinstance(note, Started) else Stage.ASKING)

    # --- the channel and the clock

    def voided(self) -> None:
        """The channel went: the broker sends everything unacked again, to somebody.

        What runs goes on, and its copy will be answered by the controller. What has not begun is not held any more.
        """
        for held in list(self._current.values()):
            if held.stage in (Stage.ASKING, Stage.APART):
                self._forget(held)
                self.desk.free(held.lease)

    def sweep(self) -> None:
        """Look at the clocks."""
        now, watched = time.monotonic(), self._watched()
        self._tombstones.sweep(now)
        for held in list(self._current.values()):
            if now >= held.deadline:
                self.stop(held)
            elif held.stage is Stage.ASKING and watched - held.since >= self._ask_timeout:
                self._ask(held)
        for held in self._by_outgoing.values():
            if held.stage is Stage.LEAVING and not held.is_missed and now - held.since >= SLOT_LOST_AFTER:
                held.is_missed = True
                _log.error("engine does not come back, its slot stays taken %s", held)

    def stop_all(self) -> None:
        """The worker ends at once: every engine is told to stop, nothing is acked."""
        for held in list(self._by_outgoing.values()):
            if held.outgoing is not None:
                self._links.drop(held.outgoing)

    # --- inside

    def _give_back(self, held: Held) -> None:
        """Its controller has to know that this is no death of ours when another worker asks."""
        self.outbox.note(held.key[0], GivenBack(held.key[1], held.attempt))
        self._forget(held)
        self.desk.give_back(held.lease)

    def _finish(self, held: Held) -> None:
        self._forget(held)
        self.requests_done += held.outgoing is not None and held.outgoing.ended
        self._refuse(held.lease)
        self._apart.over(held)

    def _forget(self, held: Held) -> None:
        self._apart.forget(held)
        if self._current.get(held.key) is held:
            del self._current[held.key]
        if held.outgoing is not None:
            self._by_outgoing.pop(held.outgoing, None)
