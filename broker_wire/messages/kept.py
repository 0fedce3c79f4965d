"""Kept responses: controllers to each other, through the log that all of them read, and the queue of background jobs.

A message of the log has records of any number of responses. Each may come twice, and each controller makes the same of
them: what came first counts. A run of a response is fenced by its epoch, as a request is by its attempt.
"""

from msgspec import Struct

from broker_wire.messages.replies import End, Piece
from broker_wire.messages.version import type_tag


class Created(Struct, frozen=True, tag="created"):
    """A response begins.

    Attributes:
        at: time of day, in seconds of Unix; so in all of these.
        fields: JSON object of what the client asked for, as the response repeats it.
        items: JSON list of the conversation up to it: that of the previous response, and the input.
        within: seconds that it may take.
    """

    id: str
    at: float
    background: bool
    fields: bytes
    items: bytes
    within: float


class Begun(Struct, frozen=True, tag="begun"):
    """The controller that says this runs it from here on; of the same epoch, whoever says it last."""

    id: str
    epoch: int


class Sent(Struct, frozen=True, tag="sent"):
    """Its request has this number at that controller: whoever takes it over stops that one."""

    id: str
    epoch: int
    stream: int


class Said(Struct, frozen=True, tag="said"):
    """Chunks of its answer; `start` came before."""

    id: str
    epoch: int
    start: int
    items: list[str | Piece]


class Ended(Struct, frozen=True, tag="ended"):
    """It is over: `end` for an answer that is complete; else `status`, with an error for one that failed."""

    id: str
    epoch: int
    at: float
    status: str = ""
    end: End | None = None
    code: str = ""
    message: str = ""


class Left(Struct, frozen=True, tag="left"):
    """The controller that ran it leaves in order: whoever gets its job goes on at once."""

    id: str
    epoch: int


class CancelAsked(Struct, frozen=True, tag="cancel_asked"):
    """A client wants it no more. What nobody runs yet is over by that."""

    id: str
    at: float


class Deleted(Struct, frozen=True, tag="deleted"):
    """Forget it."""

    id: str


class Marker(Struct, frozen=True, tag="marker"):
    """Whoever wrote it has read all that came before when it reads this."""

    nonce: str


Record = Created | Begun | Sent | Said | Ended | Left | CancelAsked | Deleted | Marker


class Records(Struct, frozen=True, tag="records", tag_field=type_tag):
    """What one controller writes to the log in one go."""

    controller: str
    records: list[Record]


class Job(Struct, frozen=True, tag="job", tag_field=type_tag):
    """A response in the background, for whichever controller takes it; its `Created` is in the log."""

    id: str


KeptMessage = Records | Job
