"""Fleet: workers (and controllers that bridge) to all controllers."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from broker_wire.messages.version import PROTOCOL_VERSION, type_tag

MAX_CONVERSATION_BYTES = 16 * 1024
"""Of a model's conversation template: it goes with every announce. FastChat's longest has 4 KB."""


class Ability(StrEnum):
    """What a model can be asked for."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    VISION = "vision"


class WorkerState(StrEnum):
    """Where a worker is in its life, as it says itself."""

    READY = "ready"
    DRAINING = "draining"


class ModelCard(Struct, frozen=True, omit_defaults=True):
    """One model that a worker serves.

    Attributes:
        context_length: in tokens; None where the engine does not say.
        streams: its answers come in pieces. One that comes in one piece may take as long as its deadline allows.
        conversation: JSON with the fields of FastChat's `Conversation`, which tell how a chat is written as a prompt;
            b"" where the worker does not tell.
        answers: which questions the worker answers, by the values of `QuestionKind` or of a newer one.
    """

    name: str
    abilities: tuple[Ability, ...] = (Ability.CHAT, Ability.COMPLETION)
    context_length: int | None = None
    streams: bool = True
    conversation: Annotated[bytes, Meta(max_length=MAX_CONVERSATION_BYTES)] = b""
    answers: tuple[str, ...] = ()


class Load(Struct, frozen=True, omit_defaults=True):
    """How busy a worker is: requests that run, requests that wait inside it, slots that are free."""

    running: int = 0
    waiting: int = 0
    free: int = 0


class Announce(Struct, frozen=True, tag="announce", tag_field=type_tag):
    """A worker says who it is: at its start, after a reconnect, and when asked.

    `first` is true once a process: only that announce takes a name over. `protocol`, `worker` and `instance` keep
    their place and meaning in every version, so that a newer peer can still be named in a log line.
    """

    worker: str
    instance: str
    protocol: str = PROTOCOL_VERSION
    first: bool = False
    models: tuple[ModelCard, ...] = ()
    slots: int = 1
    speed: float = 1.0
    state: WorkerState = WorkerState.READY
    load: Load = Load()
    shim: str = ""
    host: str = ""
    pid: int = 0
    started_at: float = 0.0
    bridged: bool = False
    made_queues: tuple[str, ...] = ()
    """Models whose queue this worker had to create: whatever waited in an earlier one is gone."""
    made_pinned_queue: bool = False
    """The same of the queue of what is for this worker alone."""
    requeued: bool = False
    """Its channel of requests was closed: of what it runs, and goes on with, there are copies in the queues."""


class Heartbeat(Struct, frozen=True, tag="heartbeat", tag_field=type_tag, omit_defaults=True):
    """A worker lives: every 5 s, and when its load changes, at most once a second."""

    worker: str
    instance: str
    load: Load = Load()
    state: WorkerState = WorkerState.READY
    requests_done: int = 0
    tokens_done: int = 0


class Goodbye(Struct, frozen=True, tag="goodbye", tag_field=type_tag, omit_defaults=True):
    """A worker leaves in order; it is dropped at once."""

    worker: str
    instance: str
    reason: str = ""


class Obituary(Struct, frozen=True, tag="obituary", tag_field=type_tag, omit_defaults=True):
    """A worker's last will, published by the broker when the worker's connection closes. It starts the grace time."""

    worker: str
    instance: str


class UpstreamHeartbeat(Struct, frozen=True, tag="upstream_heartbeat", tag_field=type_tag, omit_defaults=True):
    """A heartbeat that an old HTTP worker posted to one controller, passed on to the one that bridges it."""

    worker: str
    queue_length: int = 0


class UpstreamRegistration(Struct, frozen=True, tag="upstream_registration", tag_field=type_tag, omit_defaults=True):
    """An old HTTP worker registered at one controller; every controller may become its bridge.

    Whoever bridges it says it again from time to time, for controllers that came later; `silent_for` is then for how
    many seconds the worker itself has not been heard. What is said again may be on its way while the worker registers
    anew: of two registrations the one with the higher `version` counts.
    """

    worker: str
    check_heart_beat: bool
    models: tuple[str, ...]
    speed: float = 1.0
    queue_length: int = 0
    multimodal: bool = False
    silent_for: float = 0.0
    version: int = 0
    """Nanoseconds since 1970 by the clock of the controller that it registered at; more than any it had heard of."""


class KeepsResponses(Struct, frozen=True, tag="keeps_responses", tag_field=type_tag):
    """A controller made the log of kept responses: every other one reads it from now on, and takes jobs."""

    controller: str


FleetMessage = Announce | Heartbeat | Goodbye | Obituary | UpstreamHeartbeat | UpstreamRegistration | KeepsResponses
