"""One request that a worker holds, and how its delivery is let go. Data for `custody`; `intake` is the desk."""

from enum import Enum, auto
from typing import Protocol

from broker_wire.amqp import Delivery
from broker_wire.messages import Generate, Go
from workers_shim.outgoing import Outgoing
from workers_shim.slots import Lease
from workers_shim.tombstones import Key


class Stage(Enum):
    """How far a request has come on this worker."""

    ASKING = auto()
    APART = auto()
    """It may start, but not beside the suspect that runs."""
    RUNNING = auto()
    LEAVING = auto()
    """Nobody wants it; the engine has not come back yet."""


class Held:
    """One delivery in custody."""

    __slots__ = ("attempt", "deadline", "generate", "go", "key", "lease", "outgoing", "released", "since", "stage")

    def __init__(self, lease: Lease[Delivery], generate: Generate, deadline: float) -> None:
        self.lease = lease
        self.generate = generate
        self.key: Key = (generate.controller, generate.stream)
        self.attempt = generate.attempt
        self.deadline = deadline
        self.stage = Stage.ASKING
        self.outgoing: Outgoing | None = None
        self.go: Go | None = None
        self.released = False
        self.since = 0.0
        """When it last asked, in watched seconds."""

    @property
    def suspect(self) -> bool:
        """It was running when some worker crashed."""
        return self.go is not None and self.go.suspect


class Desk(Protocol):
    """What custody needs of `intake`: the ways in which a delivery and its slot are let go."""

    def ack(self, lease: Lease[Delivery]) -> None:
        """Settle the delivery. Without effect when its channel has gone."""

    def give_back(self, lease: Lease[Delivery]) -> None:
        """Let another worker have the delivery; its slot is free."""

    def free(self, lease: Lease[Delivery]) -> None:
        """The slot is free. Idempotent."""
