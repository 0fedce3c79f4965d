"""Exchanges, queues, routing keys and queue arguments, and what names they are made from. Pure: it declares nothing.

requests (direct)   model.<model>  -> queue model.<model>          who has a free slot takes it
                    resume.<model> -> queue resume.<model>         a stream that moves; served first
                    own.<hash>     -> queue own.<hash>             one worker, one model; falls back to the model's
                    pinned.<name>  -> queue pinned.<name>          this worker or none
replies  (direct)   <controller>   -> server-named queue           one a controller process
control  (direct)   all, model.<model>, instance.<id>, will.<id>   -> server-named queue of each worker
responses (direct)  log   -> stream responses.log     what controllers keep of responses; each reads all
                    jobs  -> queue responses.jobs     responses in the background; one controller takes each
fleet    (topic)    <kind>.<worker>                                -> server-named queue of each controller
"""

import hashlib
import math
import re
from enum import StrEnum
from typing import Any

from msgspec import Struct

from broker_wire.errors import NameRefusedError

# AMQP 0-9-1, shortstr: queue names and routing keys have 255 bytes at most.
MAX_NAME_BYTES = 255
MAX_PREFIX_BYTES = 32
MAX_MODEL_BYTES = 200
MAX_URL_BYTES = 200

_WORKER_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_WORKER_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_PREFIX = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_PREFIX_BYTES}}}")


def check_worker_name(name: str) -> str:
    """A worker's name, or the URL of a bridged one.

    Raises: NameRefusedError.
    """
    if _WORKER_NAME.fullmatch(name):
        return name
    if _WORKER_URL.fullmatch(name) and len(name.encode()) <= MAX_URL_BYTES:
        return name
    raise NameRefusedError(
        f"worker name {name[:80]!r} is refused: use 1 to 128 of A-Z a-z 0-9 . _ - , or an http(s) URL"
    )


def check_model_name(name: str) -> str:
    """Any UTF-8 text of 1 to 200 bytes without control characters.

    Raises: NameRefusedError.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise NameRefusedError("a model name that is not valid UTF-8 is refused") from error
    if not 1 <= size <= MAX_MODEL_BYTES:
        raise NameRefusedError(
            f"model name {name[:40]!r} is refused: it has {size} bytes, 1 to {MAX_MODEL_BYTES} can be carried"
        )
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in name):
        raise NameRefusedError(f"model name {name[:40]!r} is refused: it has control characters")
    return name


class QueueType(StrEnum):
    """What the queues of the models are."""

    CLASSIC = "classic"
    """On one node, in its memory: the fastest."""
    QUORUM = "quorum"
    """Replicated, for a cluster of three or more nodes: they go on when one of them dies."""


class QueueBounds(Struct, frozen=True):
    """Of the model queues: the same settings in both programs, since whoever comes first declares them.

    Attributes:
        max_length: requests that may wait for one model.
        max_bytes: and the bytes of their bodies.
        type: what queues they are.
    """

    max_length: int = 2_000
    max_bytes: int = 256 * 1024 * 1024
    type: QueueType = QueueType.CLASSIC


class KeepBounds(Struct, frozen=True):
    """Of the log of kept responses: settings of the controllers, and whoever comes first declares it.

    Attributes:
        max_bytes: of the log.
        max_age: seconds after which the broker may drop what is in it.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_age: float = 1_260.0


class Queue(Struct, frozen=True):
    """A queue to declare and its one binding. An empty `name` lets the broker choose."""

    name: str
    exchange: str
    routing_key: str
    arguments: dict[str, Any]
    exclusive: bool = False


# A model's queue lives this long after its last consumer: "its workers left less than five minutes ago".
MODEL_QUEUE_EXPIRES = 300.0
# An own or pinned queue has to outlive a worker's restart, not more.
WORKER_QUEUE_EXPIRES = 60.0
WILL_QUEUE_EXPIRES = 60.0
# Left alone for this long after its connection went half-open.
REPLY_QUEUE_EXPIRES = 60.0
# One batch a worker and tick; at this many the controller has stopped reading for long.
REPLY_QUEUE_LENGTH = 50_000
FLEET_QUEUE_LENGTH = 50_000
CONTROL_QUEUE_LENGTH = 20_000
# Jobs are not waited for longer by anybody: a request's time is up before.
JOBS_QUEUE_EXPIRES = 24 * 3600.0
JOBS_QUEUE_LENGTH = 100_000
# A stream is dropped from by whole segments; by default they have 500 MB.
LOG_SEGMENTS = 16
MIN_SEGMENT_BYTES = 1024 * 1024
# RabbitMQ 3.12 and later: a delivery may stay unacked this long. Our own deadlines are below it.
CONSUMER_TIMEOUT = 24 * 3600.0


class Topology:
    """All names of one fleet. Several fleets share a vhost by their prefix."""

    def __init__(self, prefix: str = "bc", bounds: QueueBounds | None = None) -> None:
        """Raises: NameRefusedError."""
        if not _PREFIX.fullmatch(prefix):
            raise NameRefusedError(f"prefix {prefix!r} is refused: use 1 to {MAX_PREFIX_BYTES} of A-Z a-z 0-9 . _ -")
        self.prefix = prefix
        self.bounds = bounds or QueueBounds()
        self.requests = f"{prefix}.requests"
        self.replies = f"{prefix}.replies"
        self.control = f"{prefix}.control"
        self.fleet = f"{prefix}.fleet"
        self.responses = f"{prefix}.responses"

    def exchanges(self) -> dict[str, str]:
        """Every exchange and its type; all are durable."""
        return {self.requests: "direct", self.replies: "direct", self.control: "direct", self.fleet: "topic"}

    def model_queue(self, model: str) -> Queue:
        """Bounded, and a publish over the bound is nacked: back-pressure reaches the client as 429."""
        arguments: dict[str, Any] = {
            "x-max-length": self.bounds.max_length,
            "x-max-length-bytes": self.bounds.max_bytes,
            "x-overflow": "reject-publish",
            "x-expires": _milliseconds(MODEL_QUEUE_EXPIRES),
            "x-consumer-timeout": _milliseconds(CONSUMER_TIMEOUT),
        }
        return self._request_queue(f"model.{model}", arguments)

    def resume_queue(self, model: str) -> Queue:
        """Unbounded: a stream that moves never waits behind 2,000 new ones, and there are no more than slots."""
        arguments: dict[str, Any] = {
            "x-expires": _milliseconds(MODEL_QUEUE_EXPIRES),
            "x-consumer-timeout": _milliseconds(CONSUMER_TIMEOUT),
        }
        return self._request_queue(f"resume.{model}", arguments)

    def own_queue(self, worker: str, model: str) -> Queue:
        """One worker's, for one model. TTL 0: what it cannot take at once is in the model's queue at once."""
        name = f"own.{_digest(worker, model)}"
        arguments = {
            "x-message-ttl": 0,
            "x-dead-letter-exchange": self.requests,
            "x-dead-letter-routing-key": self.model_key(model),
            "x-expires": _milliseconds(WORKER_QUEUE_EXPIRES),
            "x-consumer-timeout": _milliseconds(CONSUMER_TIMEOUT),
        }
        return Queue(f"{self.prefix}.{name}", self.requests, name, arguments)

    def pinned_queue(self, worker: str) -> Queue:
        """For requests that only this worker may run; they wait for it."""
        name = f"pinned.{worker}"
        arguments = {
            "x-expires": _milliseconds(WORKER_QUEUE_EXPIRES),
            "x-consumer-timeout": _milliseconds(CONSUMER_TIMEOUT),
        }
        return Queue(f"{self.prefix}.{name}", self.requests, name, arguments)

    def will_queue(self, worker: str, instance: str, number: int = 0) -> Queue:
        """Holds a worker's obituary; when its connection closes, the broker sends it on to `fleet`.

        `number`: another one takes its place when its node of the cluster is down.
        """
        arguments = {
            "x-message-ttl": 0,
            "x-dead-letter-exchange": self.fleet,
            "x-dead-letter-routing-key": self.fleet_key("obituary", worker),
            "x-expires": _milliseconds(WILL_QUEUE_EXPIRES),
        }
        life = f"{instance}.{number}" if number else instance
        return Queue(f"{self.prefix}.will.{life}", self.control, self.will_key(life), arguments)

    def reply_queue(self, controller: str) -> Queue:
        """A fresh one after every reconnect, bound with the same key."""
        arguments = {
            "x-max-length": REPLY_QUEUE_LENGTH,
            "x-overflow": "drop-head",
            "x-expires": _milliseconds(REPLY_QUEUE_EXPIRES),
        }
        return Queue("", self.replies, controller, arguments, exclusive=True)

    def controller_fleet_queue(self) -> Queue:
        """Everything that workers say, for one controller."""
        return Queue("", self.fleet, "#", {"x-max-length": FLEET_QUEUE_LENGTH}, exclusive=True)

    def worker_control_queue(self, instance: str) -> Queue:
        """What controllers say to one worker.

        Bind `all` and each model's key besides, and on `fleet` `first`, `announce` and `goodbye` under its own name.
        """
        arguments = {"x-max-length": CONTROL_QUEUE_LENGTH}
        return Queue("", self.control, self.instance_key(instance), arguments, exclusive=True)

    def bridge_queue(self, worker: str) -> Queue:
        """Exclusive with a fixed name: the one controller that holds it bridges this HTTP worker."""
        name = f"bridge.{_digest(worker)}"
        return Queue(f"{self.prefix}.{name}", self.control, name, {"x-max-length": 1}, exclusive=True)

    def log_queue(self, bounds: KeepBounds, number: int = 0) -> Queue:
        """What all controllers keep of responses: a stream, which each reads from where it wants, and which stays.

        `number`: another one takes its place when it is down; with the same key, so that both get what comes.
        """
        arguments = {
            "x-queue-type": "stream",
            "x-max-length-bytes": bounds.max_bytes,
            "x-max-age": f"{math.ceil(bounds.max_age)}s",
            "x-stream-max-segment-size-bytes": max(MIN_SEGMENT_BYTES, bounds.max_bytes // LOG_SEGMENTS),
        }
        name = f"{self.prefix}.responses.log" + (f".{number}" if number else "")
        return Queue(name, self.responses, self.log_key, arguments)

    def jobs_queue(self) -> Queue:
        """Responses in the background. Whoever takes one holds it until it is over; if he dies, it is another's."""
        arguments: dict[str, Any] = {
            "x-max-length": JOBS_QUEUE_LENGTH,
            "x-overflow": "reject-publish",
            "x-expires": _milliseconds(JOBS_QUEUE_EXPIRES),
            "x-consumer-timeout": _milliseconds(CONSUMER_TIMEOUT),
        }
        if self.bounds.type is QueueType.QUORUM:
            arguments |= {"x-queue-type": "quorum", "x-delivery-limit": -1}
        return Queue(f"{self.prefix}.responses.jobs", self.responses, self.jobs_key, arguments)

    @staticmethod
    def fleet_key(kind: str, worker: str) -> str:
        """Routing key on `fleet`; kind is the message's tag, or `first` for a process's first announce."""
        return f"{kind}.{worker}"

    @staticmethod
    def model_key(model: str) -> str:
        """On `requests`: the model's queue. On `control`: all workers of that model."""
        return f"model.{model}"

    @staticmethod
    def instance_key(instance: str) -> str:
        """On `control`: one worker."""
        return f"instance.{instance}"

    @staticmethod
    def will_key(instance: str) -> str:
        """On `control`: the queue that holds this worker's obituary."""
        return f"will.{instance}"

    log_key, jobs_key = "log", "jobs"
    """On `responses`."""
    all_workers_key = "all"
    nobody_key = "nobody"
    """On `control`: no queue is bound with it. A controller sends there to learn whether the broker has an alarm."""

    def _request_queue(self, name: str, arguments: dict[str, Any]) -> Queue:
        if self.bounds.type is QueueType.QUORUM:
            # RabbitMQ 4.0 and later drop a message after 20 returns; the controller counts the attempts itself.
            arguments |= {"x-queue-type": "quorum", "x-delivery-limit": -1}
        return Queue(f"{self.prefix}.{name}", self.requests, name, arguments)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _digest(*parts: str) -> str:
    return hashlib.blake2s("\0".join(parts).encode(), digest_size=12).hexdigest()
