"""The message types of the protocol, one struct each.

Written once and imported by both sides; `codec` turns them into bytes and back, `topology` says where each travels.
A newer peer of the same major version may add fields: unknown ones are ignored. Durations are seconds (a deadline
travels as *remaining* seconds, since two machines' clocks need not agree); times of day are for people only.
"""

from enum import StrEnum

from msgspec import Struct

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 0
PROTOCOL_VERSION = f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"

type_tag = "t"


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
    """One model that a worker serves. `context_length` is in tokens; None where the engine does not say."""

    name: str
    abilities: tuple[Ability, ...] = (Ability.CHAT, Ability.COMPLETION)
    context_length: int | None = None


class Load(Struct, frozen=True, omit_defaults=True):
    """How busy a worker is: requests that run, requests that wait inside it, slots that are free."""

    running: int = 0
    waiting: int = 0
    free: int = 0


# --- fleet: workers (and controllers that bridge) to all controllers -------------------------------------------


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
    many seconds the worker itself has not been heard.
    """

    worker: str
    check_heart_beat: bool
    models: tuple[str, ...]
    speed: float = 1.0
    queue_length: int = 0
    multimodal: bool = False
    silent_for: float = 0.0


FleetMessage = Announce | Heartbeat | Goodbye | Obituary | UpstreamHeartbeat | UpstreamRegistration


# --- requests: a controller to whichever worker takes it --------------------------------------------------------


class Operation(StrEnum):
    """Which HTTP protocol the body belongs to; the worker reads the body by it."""

    CHAT = "chat"
    COMPLETION = "completion"
    LLAVA = "llava"
    EMBEDDING = "embedding"


class ResumeMode(StrEnum):
    """How an answer goes on that another worker began."""

    NEVER = "never"
    """Not at all: the client gets an error."""
    REPLAY = "replay"
    """It is generated again; what the client has is compared and skipped."""
    PREFIX = "prefix"
    """The engine is given the text so far, and goes on after it."""


class Generate(Struct, frozen=True, tag="generate", tag_field=type_tag, omit_defaults=True):
    """One generation to run.

    Attributes:
        controller: id of the controller process that owns the request; also the routing key of every reply.
        stream: number of the request within that controller process; (controller, stream) is unique.
        attempt: fencing token. Frames of an older attempt are dropped.
        request_id: the client's `X-Request-Id`, for logs of both sides; it need not be unique.
        remaining: seconds until the deadline, when this was published.
        body: the client's JSON, untouched.
        pinned: only the worker whose queue this is in may run it.
        ask_first: part of the answer may be with the client already: `Ask` before the start, as for a redelivery.
        resume: how the client wants the answer to go on elsewhere; None leaves it to the model.
    """

    controller: str
    stream: int
    attempt: int
    request_id: str
    model: str
    operation: Operation
    remaining: float
    body: bytes
    pinned: bool = False
    ask_first: bool = False
    resume: ResumeMode | None = None


RequestMessage = Generate


# --- control: a controller to all workers, to those of a model, or to one instance -------------------------------


class RollCall(Struct, frozen=True, tag="roll_call", tag_field=type_tag):
    """All workers, announce yourselves."""

    controller: str


class Introduce(Struct, frozen=True, tag="introduce", tag_field=type_tag):
    """This one instance, announce yourself: a heartbeat came from somebody unknown."""

    controller: str


class Had(Struct, frozen=True, array_like=True):
    """What a client has of one choice, besides the plain text of choice 0.

    Attributes:
        index: of the choice; -1 for payloads of none, or of several.
        text: of this choice; of choice 0 it is in `Go.text`.
        measured: chunks with logprobs.
        chunks, digest: payloads, see `repetition`.
        ended: its reason of the end has been sent.
    """

    index: int
    text: str = ""
    measured: int = 0
    chunks: int = 0
    digest: bytes = b""
    ended: bool = False


class Go(Struct, frozen=True, tag="go", tag_field=type_tag, omit_defaults=True):
    """The answer to `Ask`: start.

    Attributes:
        attempt: the attempt that counts from now on; older ones are fenced off.
        next_seq: the number of the first frame that the controller still lacks.
        text: what the client already has of choice 0, to go on after it ("" when it has nothing).
        apart: seconds for which no other request that has such a time may be started beside it: workers have died
            with this one on them, and who dies next must be known.
        choices: what the client has that is more than this text.
    """

    controller: str
    stream: int
    attempt: int
    next_seq: int = 0
    text: str = ""
    apart: float = 0.0
    choices: tuple[Had, ...] = ()


class Stop(Struct, frozen=True, tag="stop", tag_field=type_tag):
    """Do not start, or stop at once: unknown, cancelled, or an attempt that no longer counts. Ack it; send nothing.

    `attempt` is the highest attempt that is to stop: a newer one on the same worker goes on.
    """

    controller: str
    stream: int
    attempt: int


class Cancel(Struct, frozen=True, tag="cancel", tag_field=type_tag, omit_defaults=True):
    """The client left or the deadline passed. Broadcast: whoever meets the stream later remembers (a tombstone).

    `remaining` is for how many seconds a worker has to remember it: until the request's deadline.
    """

    controller: str
    stream: int
    remaining: float = 600.0


class Done(Struct, frozen=True, tag="done", tag_field=type_tag):
    """The controller has everything of these streams: their kept frames may be let go. Batched."""

    controller: str
    streams: tuple[int, ...]


class Resend(Struct, frozen=True, tag="resend", tag_field=type_tag):
    """Send again, from these numbers: (stream, attempt, next_seq) each. After a gap, and after every rebind."""

    controller: str
    streams: tuple[tuple[int, int, int], ...]


class Pause(Struct, frozen=True, tag="pause", tag_field=type_tag):
    """The client of this stream reads too slowly: hold the engine."""

    controller: str
    stream: int


class Resume(Struct, frozen=True, tag="resume", tag_field=type_tag):
    """The client has caught up: go on."""

    controller: str
    stream: int


class Drain(Struct, frozen=True, tag="drain", tag_field=type_tag):
    """Take no new request, finish what runs, say goodbye, leave."""

    controller: str


class Refuse(Struct, frozen=True, tag="refuse", tag_field=type_tag):
    """This worker cannot be used (another major version); `reason` is a sentence for its log."""

    controller: str
    reason: str


ControlMessage = RollCall | Introduce | Go | Stop | Cancel | Done | Resend | Pause | Resume | Drain | Refuse


# --- replies: a worker to one controller, all frames of one tick in one message ---------------------------------


class Usage(Struct, frozen=True, array_like=True):
    """Token counts as the engine has them."""

    prompt_tokens: int
    completion_tokens: int


class Started(Struct, frozen=True, array_like=True, tag="s"):
    """First frame of every attempt, sent before the engine begins. It has no number: it is not part of the text."""

    stream: int
    attempt: int
    worker: str
    instance: str


class Ask(Struct, frozen=True, array_like=True, tag="a"):
    """A redelivered, dead-lettered or moved request: may I start it? Answered with `Go` or `Stop`.

    `attempt` is the one in the request's message: it tells which copy of the request asks. A worker that still runs
    the stream which its own copy belongs to does not ask: it acks the copy and goes on.
    """

    stream: int
    attempt: int
    worker: str
    instance: str


class Texts(Struct, frozen=True, array_like=True, tag="x"):
    """Plain deltas of one stream: `texts[i]` has number `seq + i`. The common frame, so the leanest."""

    stream: int
    attempt: int
    seq: int
    texts: list[str]


class Piece(Struct, frozen=True, array_like=True, tag="p"):
    """One chunk with more than plain text.

    Attributes:
        text: the delta, "" where there is none.
        payload: a chunk of an OpenAI-compatible engine, bytes in, bytes out.
        index: which of the `n` choices.
        replace_from: the text shrinks: everything from this character on is replaced by `text`.
        logprobs: JSON for this chunk's tokens.
    """

    stream: int
    attempt: int
    seq: int
    text: str = ""
    payload: bytes | None = None
    index: int = 0
    replace_from: int | None = None
    logprobs: bytes | None = None
    finish_reason: str | None = None


class End(Struct, frozen=True, array_like=True, tag="e"):
    """The last frame of a stream that went well. `result` is the JSON of an answer that does not stream."""

    stream: int
    attempt: int
    seq: int
    finish_reason: str = "stop"
    usage: Usage | None = None
    result: bytes | None = None


class FailureKind(StrEnum):
    """Whose fault it was, which decides whether another worker is tried."""

    REQUEST = "request"
    """The request cannot be served by any worker: bad parameters, prompt too long."""
    ENGINE = "engine"
    """The engine raised."""
    DIVERGED = "diverged"
    """A replayed generation differs from what the client already has."""
    NOT_RESUMABLE = "not_resumable"
    """The engine cannot go on from the middle."""
    NOT_SERVED = "not_served"
    """The worker does not serve this model any more."""
    DEADLINE = "deadline"
    """Its time was up at the worker, which may notice before the controller does."""


class Failed(Struct, frozen=True, array_like=True, tag="f"):
    """The last frame of a stream that went wrong."""

    stream: int
    attempt: int
    seq: int
    kind: FailureKind
    message: str


class Gone(Struct, frozen=True, array_like=True, tag="g"):
    """The answer to `Resend` for a stream that this worker does not hold, or no longer from that number on."""

    stream: int
    attempt: int


class GivenBack(Struct, frozen=True, array_like=True, tag="b"):
    """The request goes back to its queue although it had `Go`: it cannot be run apart here for now."""

    stream: int
    attempt: int


class Progress(Struct, frozen=True, array_like=True, tag="k"):
    """The engine works, although it has no chunk to show."""

    stream: int
    attempt: int


Frame = Started | Ask | Texts | Piece | End | Failed | Gone | GivenBack | Progress


class Batch(Struct, frozen=True, tag="batch", tag_field=type_tag):
    """All frames that one worker has for one controller at the end of a tick."""

    instance: str
    frames: list[Frame]


ReplyMessage = Batch
