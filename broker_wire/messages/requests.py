"""Requests: a controller to whichever worker takes it."""

from enum import StrEnum

from msgspec import Struct

from broker_wire.messages.version import type_tag


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


HOPS_HEADER = "X-Controller-Hops"
"""Of HTTP: what carries `Generate.hops` from one fleet to another."""


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
        hops: controllers that it came through before this one. Who passes it on to another counts one more.
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
    hops: int = 0


RequestMessage = Generate
