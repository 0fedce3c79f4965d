"""What a worker is told before it starts, and why it left."""

from enum import StrEnum

from msgspec import Struct

from broker_wire.amqp import TLSFiles
from broker_wire.topology import QueueBounds

GRACE = 30.0
"""Seconds that a stream is kept for a controller that is gone, and a complete one for its `done`."""


class SessionConfig(Struct, frozen=True):
    """One worker on the broker.

    Attributes:
        name: unique in the fleet.
        slots: requests that run at once.
        speed: relative to the other workers.
        broker_url: comma-separated amqp:// or amqps:// addresses.
        prefix: of all names on the broker.
        bounds: of the model queues; the same as the controllers'.
        heartbeat_interval: seconds between two signs of life.
        drain_timeout: seconds that running requests have to finish in.
        grace: seconds that a controller that is gone has to come back in.
        bridged: it stands for an HTTP worker, whose URL is its name.
        idle_exit: it leaves after so many seconds without a request; None: it stays.
    """

    name: str
    slots: int
    speed: float
    broker_url: str
    tls: TLSFiles | None = None
    prefix: str = "bc"
    bounds: QueueBounds = QueueBounds()
    heartbeat_interval: float = 5.0
    drain_timeout: float = 600.0
    grace: float = GRACE
    bridged: bool = False
    idle_exit: float | None = None


class Patience(Struct, frozen=True):
    """How long a worker waits for others, in seconds. Not for operators: tests shorten them.

    Attributes:
        ask: an `Ask` may stay without an answer.
        suspect: one that must run apart waits for another such one.
        farewell: a leaving worker waits for engines that were told to stop, then for its last answers to be fetched.
        sweep: between two looks at all these.
        roll_call: jitter of the answer to a roll-call.
    """

    ask: float = 5.0
    suspect: float = 0.25
    farewell: float = 2.0
    sweep: float = 0.5
    roll_call: float = 0.3


class LeaveReason(StrEnum):
    """Why a worker left."""

    DRAINED = "drained"
    TAKEN_OVER = "taken over"
    ENDED = "ended"
