"""One request that a worker holds, and how its delivery is let go. Data for `custody`; `intake` is the desk."""

from enum import Enum, auto
from typing import Protocol

from broker_wire.amqp import Delivery
from broker_wire.errors import GarbageError
from broker_wire.messages import Generate, Go
from broker_wire.topology import MAX_NAME_BYTES
from workers_shim.outgoing import Outgoing
from workers_shim.slot_decisions import Lease
from workers_shim.tombstones import Key


class Stage(Enum):
    """How far a request has come on this worker."""

    ASKING = auto()
    APART = auto()
    """It may start, but not beside another one that must run apart."""
    RUNNING = auto()
    LEAVING = auto()
    """Nobody wants it; the engine has not come back yet."""


class Held:
    """One delivery in custody."""

    __slots__ = (
        "attempt",
        "deadline",
        "generate",
        "go",
        "is_missed",
        "key",
        "lease",
        "outgoing",
        "released",
        "since",
        "stage",
    )

    def __init__(self, lease: Lease[Delivery], generate: Generate, deadline: float) -> None:
        self.lease = lease
        self.generate = generate
        self.key: Key = (generate.controller, generate.stream)
        self.attempt = generate.attempt
        self.deadline = deadline
        self.stage = Stage.ASKING
        self.outgoing: Outgoing | None = None
        self.go: Go | None = None
        """With what its engine is to begin, once the controller's queue has the news of that."""
        self.released = False
        self.since = 0.0
        """When it last asked, in watched seconds; when it was told to stop, in monotonic ones."""
        self.is_missed = False
        """Its engine was told to stop long ago, and an operator has been told."""

    def __str__(self) -> str:
        """For the log."""
        generate = self.generate
        return f"request={generate.request_id} model={generate.model} stream={generate.stream} attempt={self.attempt}"


class Desk(Protocol):
    """What custody needs of `intake`: the ways in which a delivery and its slot are let go."""

    def ack(self, lease: Lease[Delivery]) -> None:
        """Settle the delivery. Without effect when its channel has gone."""

    def give_back(self, lease: Lease[Delivery]) -> None:
        """Let another worker have the delivery; its slot is free."""

    def free(self, lease: Lease[Delivery]) -> None:
        """The slot is free. Idempotent."""


def check_controller(name: str) -> None:
    """Raises: GarbageError, if it cannot be a routing key."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_NAME_BYTES:
        raise GarbageError(f"a controller's id of {size} bytes cannot be a routing key")
