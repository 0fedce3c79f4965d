"""Control: a controller to all workers, to those of a model, or to one instance."""

from enum import StrEnum

from msgspec import Struct

from broker_wire.messages.version import type_tag


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


class QuestionKind(StrEnum):
    """What can be asked about a model beside requests, in the words of FastChat's worker protocol."""

    COUNT_TOKENS = "count_tokens"
    CONTEXT_LENGTH = "context_length"
    CONVERSATION = "conversation"


class Question(Struct, frozen=True, tag="question", tag_field=type_tag, omit_defaults=True):
    """Tell at once, outside of the slots: answered with `Answered`. Only for whoever says in its card that it answers.

    Attributes:
        stream: number of the question, of the same count as the numbers of requests.
        kind: a value of `QuestionKind`, or of a newer one.
        remaining: seconds for which the controller waits.
        body: the client's JSON, untouched.
        hops: controllers that it came through before this one.
    """

    controller: str
    stream: int
    kind: str
    model: str
    remaining: float
    body: bytes
    hops: int = 0


class Drain(Struct, frozen=True, tag="drain", tag_field=type_tag):
    """Take no new request, finish what runs, say goodbye, leave."""

    controller: str


class Refuse(Struct, frozen=True, tag="refuse", tag_field=type_tag):
    """This worker cannot be used (another major version); `reason` is a sentence for its log."""

    controller: str
    reason: str


ControlMessage = RollCall | Introduce | Go | Stop | Cancel | Done | Resend | Pause | Resume | Question | Drain | Refuse
