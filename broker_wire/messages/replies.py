"""Replies: a worker to one controller, all frames of one tick in one message."""

from enum import StrEnum

from msgspec import Struct

from broker_wire.messages.version import type_tag


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


class Payloads(Struct, frozen=True, array_like=True, tag="y"):
    """Chunks of an OpenAI-compatible engine, nothing beside: `payloads[i]` has number `seq + i`."""

    stream: int
    attempt: int
    seq: int
    payloads: list[bytes]

    def pieces(self) -> "list[Piece]":
        """The same one by one."""
        return [
            Piece(self.stream, self.attempt, seq, payload=payload)
            for seq, payload in enumerate(self.payloads, self.seq)
        ]


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
    LOST = "lost"
    """What runs the model for the worker died in the middle of the answer. Another one may go on, but not many."""
    DEADLINE = "deadline"
    """Its time was up at the worker, which may notice before the controller does."""


class Failed(Struct, frozen=True, array_like=True, tag="f"):
    """The last frame of a stream that went wrong."""

    stream: int
    attempt: int
    seq: int
    kind: FailureKind
    message: str
    code: str = ""
    """What programs know a request's own fault by, and which of its fields it is, where the engine says so."""
    param: str = ""


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


class Answered(Struct, frozen=True, array_like=True, tag="q"):
    """The answer to `Question`: the JSON that the client gets, or why there is none."""

    stream: int
    body: bytes = b""
    failure: FailureKind | None = None
    message: str = ""


Frame = Started | Ask | Texts | Payloads | Piece | End | Failed | Gone | GivenBack | Progress | Answered


class Batch(Struct, frozen=True, tag="batch", tag_field=type_tag):
    """All frames that one worker has for one controller at the end of a tick."""

    instance: str
    frames: list[Frame]


ReplyMessage = Batch
