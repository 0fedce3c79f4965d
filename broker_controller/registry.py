"""Who is there, what they serve, how loaded they are, since when: rebuilt from messages alone.

Fed by `fleet` with what workers say on the broker, and by `controller` with what HTTP workers post. Pure: no clock and
no I/O, every `now` is passed in (seconds of a clock that stands still while the broker lets nobody be heard). One
heartbeat costs the same with one worker and with thousands.

    READY <──────> DRAINING      as the worker says itself, in announces and heartbeats
      └──> LOST <──┘             on its obituary; back on an announce or a heartbeat of the same instance
    INCOMPATIBLE                 an announce of another major version
    removed                      goodbye, expiry

A name belongs to one instance. A live one gives way to a newer instance only (ids sort by creation), a lost one to
anybody who claims the name: whatever an older instance says late changes nothing.
"""

from collections.abc import Hashable
from enum import Enum, auto

from broker_controller.recent_requests import RecentRequests
from broker_controller.registration import Registration, WorkerStatus, clamp_queue_length
from broker_controller.served_models import ServedModels
from broker_controller.worker_record import RecordState, WorkerRecord, announced_state
from broker_wire.codec import Stranger
from broker_wire.messages import Ability, Announce, Goodbye, Heartbeat, Obituary

# LLaVA: CONTROLLER_HEART_BEAT_EXPIRATION is 30 s for the check; three of them without a heartbeat are the end.
EXPIRATION = 90.0
# A heartbeat that was on its way when its worker died may arrive just after the obituary: it revives nobody.
REVIVAL_DELAY = 1.0


class Change(Enum):
    """What an announce or a registration did."""

    NEW = auto()
    UPDATED = auto()
    REPLACED = auto()
    """The name has gone over to another instance."""
    IGNORED = auto()
    """The name belongs to somebody else."""


class Registry:
    """The fleet, as one controller knows it."""

    def __init__(self, expiration: float = EXPIRATION) -> None:
        """`expiration` in seconds of silence."""
        self.expiration = expiration
        self._workers: dict[str, WorkerRecord] = {}
        self._recent = RecentRequests()
        self._turn = 0
        self._served: ServedModels | None = None

    # --- what workers say on the broker -------------------------------------------------------------------------

    def apply_announce(self, announce: Announce, now: float) -> Change:
        """A worker says who it is."""
        change = self._judge(announce.worker, announce.instance)
        if change is Change.IGNORED:
            return change
        record = self._claimed(announce.worker, change)
        if announce.models != record.models:
            self._served = None
        if not announce.bridged:
            record.registration = None
        self._recent.reported(record)
        record.take_announce(announce, now)
        self._set_state(record, announced_state(announce.state))
        return change

    def apply_heartbeat(self, heartbeat: Heartbeat, now: float) -> bool:
        """A worker lives. False: this instance is not the one that is known, so ask it to introduce itself."""
        record = self._of_instance(heartbeat.worker, heartbeat.instance)
        if record is None or record.state is RecordState.INCOMPATIBLE:
            return False
        self._recent.reported(record)
        record.take_heartbeat(heartbeat, now)
        if record.lost_at is None or now - record.lost_at >= REVIVAL_DELAY:
            self._set_state(record, announced_state(heartbeat.state))
        return True

    def apply_goodbye(self, goodbye: Goodbye) -> WorkerRecord | None:
        """A worker leaves in order. Its record, if this dropped it.

        A bridge that leaves an HTTP worker does not end its registration: another may bridge it.
        """
        record = self._of_instance(goodbye.worker, goodbye.instance)
        if record is None:
            return None
        if record.registration is not None:
            self._unbridge(record)
            return None
        return self.remove(record.name)

    def apply_obituary(self, obituary: Obituary, now: float) -> bool:
        """A worker's connection closed: nothing is sent to it until it is heard again. False: nobody we know."""
        record = self._of_instance(obituary.worker, obituary.instance)
        if record is None:
            return False
        if record.registration is not None:
            self._unbridge(record)
        elif record.state.live:
            self._set_state(record, RecordState.LOST)
            record.lost_at = now
        return True

    def apply_stranger(self, stranger: Stranger, now: float) -> Change:
        """A worker of another major version: shown, never sent anything."""
        change = self._judge(stranger.worker, stranger.instance)
        former = self._workers.get(stranger.worker)
        if change is Change.IGNORED or (former is not None and former.registration is not None):
            # An HTTP worker stays what it is, whatever version the controller speaks that bridges it.
            return Change.IGNORED
        record = self._claimed(stranger.worker, change)
        record.take_announce(Announce(stranger.worker, stranger.instance, stranger.protocol, slots=0), now)
        self._set_state(record, RecordState.INCOMPATIBLE)
        return change

    # --- what HTTP workers post ---------------------------------------------------------------------------------

    def register_http(
        self, name: str, check_heart_beat: bool, status: WorkerStatus, multimodal: bool, now: float
    ) -> Change:
        """An HTTP worker registers, or registers again. Ignored where a worker of the broker has the name."""
        record = self._workers.get(name)
        change = Change.UPDATED
        if record is None:
            record = self._workers[name] = WorkerRecord(name=name, last_seen=now)
            change = Change.NEW
        elif record.registration is None and not record.bridged:
            return Change.IGNORED
        record.registration = Registration(check_heart_beat, multimodal, now, status.queue_length)
        cards = status.cards(multimodal)
        if not record.bridged or record.served() != {card.name: card.abilities for card in cards}:
            # What its bridge says of the same models is more.
            record.models = cards
        record.speed = status.speed
        self._served = None
        if record.state is RecordState.LOST:
            self._unbridge(record)
        return change

    def receive_heart_beat(self, name: str, queue_length: int, now: float) -> bool:
        """An HTTP worker lives. False: its registration is not known here, so it should register again."""
        record = self._workers.get(name)
        if record is None or record.registration is None:
            return False
        record.registration.last_seen = now
        record.registration.queue_length = clamp_queue_length(queue_length)
        return True

    # --- leaving ------------------------------------------------------------------------------------------------

    def remove(self, name: str) -> WorkerRecord | None:
        """Drop a worker, whatever its state. None: it was not there."""
        record = self._workers.pop(name, None)
        if record is not None:
            self._recent.left(record)
            self._served = None
        return record

    def expire(self, now: float) -> list[WorkerRecord]:
        """Drop whoever has been silent for too long; they are returned."""
        for record in self._workers.values():
            # A silent bridge is no reason to give up the HTTP worker behind it.
            if record.registration is not None and record.instance and self._silent(record.last_seen, now):
                self._unbridge(record)
        overdue = [record for record in self._workers.values() if self._overdue(record, now)]
        for record in overdue:
            self.remove(record.name)
        return overdue

    # --- what is on its way to them -----------------------------------------------------------------------------

    def note_sent(self, name: str, key: Hashable, now: float) -> None:
        """A request went to this worker's own queue. It counts there until it is started, by whomever, or over.

        At most five seconds: what a worker's own queue does not deliver at once falls back to the model's queue.
        """
        self._recent.finished(key)
        record = self._workers.get(name)
        if record is not None:
            self._recent.sent(record, key, now)
            self._take_turn(record)

    def note_started(self, name: str, key: Hashable) -> None:
        """This worker, not always the one it was sent to, runs the request: it counts until a heartbeat shows it."""
        self._recent.finished(key)
        record = self._workers.get(name)
        if record is not None:
            self._recent.started(record, key)

    def note_finished(self, key: Hashable) -> None:
        """The request is over, in any way."""
        self._recent.finished(key)

    def note_address(self, name: str, now: float) -> None:
        """This worker's address was handed out: it counts as a request until it is used, or for two seconds."""
        record = self._workers.get(name)
        if record is not None:
            record.note_address(now)
            self._take_turn(record)

    def note_address_used(self, name: str, now: float) -> None:
        """A request came in by this worker's address."""
        record = self._workers.get(name)
        if record is not None:
            record.note_address_used(now)

    # --- who is there -------------------------------------------------------------------------------------------

    def get(self, name: str) -> WorkerRecord | None:
        """One worker, whatever its state."""
        return self._workers.get(name)

    def workers(self) -> list[WorkerRecord]:
        """Everybody, the lost and the incompatible included, in order of registration."""
        return list(self._workers.values())

    def workers_for(self, model: str, now: float) -> list[WorkerRecord]:
        """Who may be sent a request for this model at this moment, in order of registration."""
        return [record for record in self._served_models().ready.get(model, ()) if not self._overdue(record, now)]

    def models(self) -> frozenset[str]:
        """What the live workers serve (a draining one is live)."""
        return self._served_models().all

    def abilities(self, model: str) -> frozenset[Ability]:
        """What this model can be asked for; empty for one that nobody serves."""
        return self._served_models().abilities.get(model, frozenset())

    def multimodal_models(self) -> frozenset[str]:
        """Of these, those that some live worker serves with images."""
        return self._served_models().multimodal

    def language_models(self) -> frozenset[str]:
        """Of these, those that some live worker serves without images."""
        return self._served_models().language

    # --- inside -------------------------------------------------------------------------------------------------

    def _judge(self, name: str, instance: str) -> Change:
        """What becomes of a claim to this name."""
        record = self._workers.get(name)
        if not instance:
            return Change.IGNORED
        if record is None:
            return Change.NEW
        if record.instance in ("", instance):
            return Change.UPDATED
        if record.state is RecordState.LOST or instance > record.instance:
            return Change.REPLACED
        return Change.IGNORED

    def _claimed(self, name: str, change: Change) -> WorkerRecord:
        """The record to fill in: a fresh one for another instance, which knows nothing of what was sent to the last."""
        former = self._workers.get(name)
        if former is not None and change is Change.UPDATED:
            return former
        successor = self._workers[name] = WorkerRecord(name=name)
        if former is not None:
            successor.registration = former.registration
            self._recent.left(former)
        self._served = None
        return successor

    def _of_instance(self, name: str, instance: str) -> WorkerRecord | None:
        record = self._workers.get(name)
        return record if record is not None and instance and record.instance == instance else None

    def _set_state(self, record: WorkerRecord, state: RecordState) -> None:
        """The one place where a state changes."""
        if state is not RecordState.LOST:
            record.lost_at = None
        if state is not record.state:
            record.state = state
            self._served = None

    def _unbridge(self, record: WorkerRecord) -> None:
        record.leave_bridge()
        self._set_state(record, RecordState.READY)

    def _overdue(self, record: WorkerRecord, now: float) -> bool:
        if record.registration is None:
            return self._silent(record.last_seen, now)
        return record.registration.check_heart_beat and self._silent(record.registration.last_seen, now)

    def _silent(self, last_seen: float, now: float) -> bool:
        return now - last_seen > self.expiration

    def _take_turn(self, record: WorkerRecord) -> None:
        self._turn += 1
        record.turn = self._turn

    def _served_models(self) -> ServedModels:
        if self._served is None:
            self._served = ServedModels.of(self._workers.values())
        return self._served
