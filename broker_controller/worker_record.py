"""What a controller knows about one worker, and how loaded it takes that worker to be.

Made and changed by `registry` alone; `dispatch` and whoever shows the fleet read it. It knows neither the other
workers nor a clock: every time is passed in (seconds, monotonic).
"""

import math
from collections import deque
from collections.abc import Hashable
from enum import StrEnum

from msgspec import Struct, field
from msgspec.structs import replace

from broker_controller.registration import Registration, clamp_queue_length, clamp_speed
from broker_wire.messages import Ability, Announce, Heartbeat, Load, ModelCard, WorkerState

# An own queue delivers at once or passes on to the model's queue; after this time the request is not here.
SENT_COUNTS = 5.0
# A client that got an address calls it at once, or never.
ADDRESS_COUNTS = 2.0
# More addresses than this within two seconds change nothing in the choice.
MAX_ADDRESSES = 1_000


class RecordState(StrEnum):
    """A worker, as its controller sees it."""

    READY = "ready"
    DRAINING = "draining"
    LOST = "lost"
    """Its connection to the broker closed; it may come back until it expires."""
    INCOMPATIBLE = "incompatible"
    """It speaks another major version of the protocol."""

    @property
    def live(self) -> bool:
        """It is there and works, though it may take nothing new."""
        return self in _LIVE


_LIVE = frozenset({RecordState.READY, RecordState.DRAINING})
_ANNOUNCED = {WorkerState.READY: RecordState.READY, WorkerState.DRAINING: RecordState.DRAINING}


def announced_state(state: WorkerState) -> RecordState:
    """What a worker says of itself, in the words of its controller."""
    return _ANNOUNCED[state]


class WorkerView(Struct, frozen=True):
    """A worker as the status shows it. Ages are in seconds, `started_at` is Unix time (0: not known)."""

    name: str
    instance: str
    state: RecordState
    models: tuple[ModelCard, ...]
    slots: int
    speed: float
    running: int
    waiting: int
    free: int
    load: int
    last_seen_age: float
    lost_for: float | None
    started_at: float
    host: str
    pid: int
    shim: str
    protocol: str
    bridged: bool
    address: str | None
    check_heart_beat: bool
    requests_done: int
    tokens_done: int


def _shown(card: ModelCard) -> ModelCard:
    """Without its conversation template, which may be long: that has an endpoint of its own."""
    return replace(card, conversation=b"") if card.conversation else card


class WorkerRecord(Struct, eq=False, kw_only=True):
    """One worker of the fleet.

    Attributes:
        instance: id of its process, "" for an HTTP worker that no controller bridges at this moment.
        speed: relative to other workers; finite, 0 or more.
        last_seen: when it was last heard over the broker (an HTTP worker's own heartbeats: `registration`).
        lost_at: since when its connection is known to be closed.
        registration: how it registered over HTTP; None for a worker of the broker.
        turn: number of the last choice that fell on it; breaks ties between equally loaded workers.
    """

    name: str
    instance: str = ""
    state: RecordState = RecordState.READY
    models: tuple[ModelCard, ...] = ()
    slots: int = 0
    speed: float = 1.0
    reported: Load = Load()
    last_seen: float = 0.0
    lost_at: float | None = None
    started_at: float = 0.0
    host: str = ""
    pid: int = 0
    shim: str = ""
    protocol: str = ""
    bridged: bool = False
    requests_done: int = 0
    tokens_done: int = 0
    registration: Registration | None = None
    turn: int = 0
    _sent: dict[Hashable, float] = field(default_factory=dict)
    _started: set[Hashable] = field(default_factory=set)
    _addresses: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_ADDRESSES))

    @property
    def address(self) -> str | None:
        """Where an HTTP worker can be called directly; None for a worker that only the broker reaches."""
        is_http = self.bridged or self.registration is not None
        return self.name if is_http and self.name.startswith(("http://", "https://")) else None

    @property
    def check_heart_beat(self) -> bool:
        """Whether it expires when it is silent. On the broker everybody has a heartbeat."""
        return self.registration is None or self.registration.check_heart_beat

    @property
    def model_names(self) -> tuple[str, ...]:
        """What it serves."""
        return tuple(card.name for card in self.models)

    def served(self) -> dict[str, tuple[Ability, ...]]:
        """What each of its models can be asked for."""
        return {card.name: card.abilities for card in self.models}

    def card(self, model: str) -> ModelCard:
        """What it says of a model, which is one of its own."""
        return next(card for card in self.models if card.name == model)

    def heard_at(self) -> float:
        """The latest sign of life, over the broker or over HTTP."""
        if self.registration is None:
            return self.last_seen
        return max(self.last_seen, self.registration.last_seen)

    def load(self, now: float) -> int:
        """Requests that it has or is about to have: its own report, and what the report cannot know yet."""
        self._forget_old(now)
        return self._reported_length() + len(self._sent) + len(self._started) + len(self._addresses)

    def view(self, now: float) -> WorkerView:
        """Everything that a status page shows."""
        return WorkerView(
            name=self.name,
            instance=self.instance,
            state=self.state,
            models=tuple(map(_shown, self.models)),
            slots=self.slots,
            speed=self.speed,
            running=self.reported.running,
            waiting=self.reported.waiting,
            free=self.reported.free,
            load=self.load(now),
            last_seen_age=max(0.0, now - self.heard_at()),
            lost_for=None if self.lost_at is None else max(0.0, now - self.lost_at),
            started_at=self.started_at,
            host=self.host,
            pid=self.pid,
            shim=self.shim,
            protocol=self.protocol,
            bridged=self.bridged,
            address=self.address,
            check_heart_beat=self.check_heart_beat,
            requests_done=self.requests_done,
            tokens_done=self.tokens_done,
        )

    # What follows is called by the registry, which keeps its own books beside it.

    def take_announce(self, announce: Announce, now: float) -> None:
        """Become what the announce says, except for the state."""
        self.instance = announce.instance
        self.models = announce.models
        self.slots = max(0, announce.slots)
        self.speed = clamp_speed(announce.speed)
        # It comes from a stranger, and is shown as whole seconds.
        self.started_at = announce.started_at if math.isfinite(announce.started_at) else 0.0
        self.host = announce.host
        self.pid = announce.pid
        self.shim = announce.shim
        self.protocol = announce.protocol
        self.bridged = announce.bridged
        self._take_report(announce.load, now)

    def take_heartbeat(self, heartbeat: Heartbeat, now: float) -> None:
        """Note the load and the counters, not the state."""
        self.requests_done = heartbeat.requests_done
        self.tokens_done = heartbeat.tokens_done
        self._take_report(heartbeat.load, now)

    def leave_bridge(self) -> None:
        """Be a registered HTTP worker again, which nobody bridges."""
        self.instance = ""
        self.bridged = False
        self.slots = 0
        self.reported = Load()

    def note_sent(self, key: Hashable, now: float) -> None:
        """A request is on its way."""
        self._sent[key] = now + SENT_COUNTS

    def still_counts(self, key: Hashable, now: float) -> bool:
        """Whether a request that was sent may still be on its way."""
        return self._sent.get(key, now) > now

    def note_started(self, key: Hashable) -> None:
        """A request has arrived; the next report counts it."""
        self._started.add(key)

    def take_started(self) -> set[Hashable]:
        """What has arrived since the last report, which forgets it."""
        started, self._started = self._started, set()
        return started

    def note_finished(self, key: Hashable) -> None:
        """The request is over, or runs elsewhere."""
        self._sent.pop(key, None)
        self._started.discard(key)

    def note_address(self, now: float) -> None:
        """Its address was handed out: a request may follow."""
        self._addresses.append(now + ADDRESS_COUNTS)

    def note_address_used(self, now: float) -> None:
        """The request that was announced by an address is here."""
        self._forget_old(now)
        if self._addresses:
            self._addresses.popleft()

    def counted(self) -> list[Hashable]:
        """Keys of the requests that are counted here."""
        return [*self._sent, *self._started]

    def _take_report(self, load: Load, now: float) -> None:
        # A stranger's figure adds up to the fleet's free slots on the status page.
        self.reported = Load(load.running, load.waiting, min(max(0, load.free), self.slots))
        self.last_seen = now

    def _reported_length(self) -> int:
        """A bridge does not see who calls its worker directly, and the worker's own report may be old: the larger."""
        own = clamp_queue_length(self.reported.running) + clamp_queue_length(self.reported.waiting)
        return own if self.registration is None else max(own, self.registration.queue_length)

    def _forget_old(self, now: float) -> None:
        # Both are in order of time, so only what is due is looked at.
        while self._sent and next(iter(self._sent.values())) <= now:
            del self._sent[next(iter(self._sent))]
        while self._addresses and self._addresses[0] <= now:
            self._addresses.popleft()
