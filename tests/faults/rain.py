"""Garbage for every exchange and queue of a fleet: bytes that are no message, and messages that cannot be right.

Used by `test_garbage`, which says what has to come of it.
"""

import random
from collections import Counter
from collections.abc import Sequence

import msgspec
import pika
from pika.adapters.blocking_connection import BlockingChannel

from broker_wire import codec
from broker_wire.messages import (
    Announce,
    Ask,
    Batch,
    Cancel,
    Done,
    End,
    Failed,
    FailureKind,
    FleetMessage,
    Frame,
    Generate,
    Go,
    Goodbye,
    Heartbeat,
    Load,
    ModelCard,
    Obituary,
    Operation,
    Pause,
    Payloads,
    Piece,
    Progress,
    Resend,
    Started,
    Stop,
    Texts,
    UpstreamHeartbeat,
    UpstreamRegistration,
    Usage,
)
from broker_wire.topology import Topology
from tests.waiting import eventually_sync

BURST = 20
MOST_WAITING = 100
NEXT_VERSION = codec.CONTENT_TYPE.replace("v1", "v2")
HUGE = 2**63
NOBODY = "nobody"
"""A worker, an instance and a controller that are not there."""
NO_STREAM = 0x7172737475767778
"""Of no request; with some bytes changed, too."""

WILL = "will"
OLD_MODEL = "old"
"""Of a worker that registered over HTTP and is bridged."""

Place = tuple[str, str, str]
"""The name under which it is counted, an exchange, a routing key."""

FRAMES: list[Frame] = [
    Started(NO_STREAM, 1, NOBODY, NOBODY),
    Ask(NO_STREAM, 1, NOBODY, NOBODY),
    Texts(NO_STREAM, HUGE, HUGE, ["a"]),
    Payloads(NO_STREAM, HUGE, HUGE, [b"\xff", b""]),
    Piece(NO_STREAM, 1, HUGE, "x", payload=b"\xff", index=HUGE, replace_from=HUGE),
    End(NO_STREAM, 1, 0, "stop", Usage(HUGE, HUGE)),
    Failed(NO_STREAM, 1, 0, FailureKind.ENGINE, "boom"),
    Progress(NO_STREAM, 1),
]
VALID_CONTROL: list[msgspec.Struct] = [
    Go(NOBODY, NO_STREAM, HUGE, HUGE, "x", apart=float("inf")),
    Stop(NOBODY, NO_STREAM, HUGE),
    Cancel(NOBODY, NO_STREAM, remaining=float("nan")),
    Done("n" * 1000, (NO_STREAM,) * 100),
    Resend(NOBODY, ((NO_STREAM, HUGE, HUGE),)),
    Pause(NOBODY, NO_STREAM),
]
VALID_REQUESTS: list[msgspec.Struct] = [
    Generate(NOBODY, NO_STREAM, 1, "r", "m", Operation.LLAVA, float("inf"), b"\xff\xfe"),
    Generate(NOBODY, NO_STREAM - 1, HUGE, "r", "other", Operation.CHAT, float("nan"), b"{}", ask_first=True),
    Generate("n" * 1000, 1, 1, "r", "m", Operation.CHAT, 600.0, b"[]"),
]


def fleet_messages(number: int) -> list[FleetMessage]:
    """From workers that are not there, with the numbers that nobody has."""
    name, huge = f"{NOBODY}{number % 5}", Load(HUGE, HUGE, HUGE)
    models = (ModelCard("nothing", context_length=HUGE), ModelCard(f"of {name}"))
    return [
        Announce(name, f"i{number}", models=models, slots=HUGE, speed=float("inf"), load=huge, pid=HUGE),
        Announce(
            f"{name}.",
            f"i{number}",
            models=(ModelCard("late"),),
            slots=-HUGE,
            speed=float("nan"),
            started_at=float("inf"),
        ),
        Announce(f"{name} is no name", f"i{number}"),
        Heartbeat(name, f"i{number}", huge, requests_done=HUGE, tokens_done=HUGE),
        Heartbeat(NOBODY, "i" * 1000),
        Obituary(NOBODY, NOBODY),
        Goodbye(NOBODY, NOBODY, "x" * 10_000),
        UpstreamHeartbeat("http://nobody.invalid", HUGE),
        UpstreamRegistration("no url", True, ("m",), speed=float("nan"), queue_length=HUGE, version=HUGE),
    ]


class Rain:
    """Publishes garbage. `sure` counts, by place, what cannot be taken for a message; the rest may or may not be."""

    def __init__(self, channel: BlockingChannel, topology: Topology, controller: str, seed: int) -> None:
        self.sure: Counter[str] = Counter()
        self._channel = channel
        self._topology = topology
        self._controller = controller
        self._random = random.Random(seed)
        self._number = 0

    def drop(self, place: str, exchange: str, key: str) -> None:
        """One message that is surely none."""
        length = self._random.choice((0, 1, 7, 100, 5_000))
        body = b"\xc1" + self._random.randbytes(length)  # 0xc1 is the byte that msgpack never uses
        kinds = [codec.CONTENT_TYPE, NEXT_VERSION, "text/plain", "", None]
        self._publish(
            exchange, key, body, self._random.choice(kinds), self._random.choice(["announce", "", "generate"])
        )
        self.sure[place] += 1

    def burst(self, places: Sequence[Place]) -> None:
        """Some of everything, everywhere; no faster than the workers take it, or the model's queue would be full.

        `places`: those besides the exchanges' common keys.
        """
        self._number += 1
        topology = self._topology
        eventually_sync(lambda: self._waiting(topology.model_queue("m").name) < MOST_WAITING)
        fleet_key = topology.fleet_key("announce", NOBODY)
        for _ in range(BURST):
            self.drop("fleet", topology.fleet, fleet_key)
            self.drop("replies", topology.replies, self._controller)
            self.drop("control", topology.control, topology.all_workers_key)
            self.drop("control", topology.control, topology.model_key("m"))
            self.drop("requests", topology.requests, topology.model_key("m"))
            for place in places:
                self.drop(*place)
        for fleet_message in fleet_messages(self._number):
            self._say(topology.fleet, fleet_key, fleet_message)
        for message in VALID_CONTROL:
            self._say(topology.control, topology.all_workers_key, message)
        for _, exchange, key in (place for place in places if place[0] == WILL):
            self._say(exchange, key, Obituary(NOBODY, NOBODY))
        for message in VALID_REQUESTS:
            self._say(topology.requests, topology.model_key("m"), message)
        for frames in ([frame] for frame in FRAMES):
            self._say(topology.replies, self._controller, Batch(NOBODY, list(frames)))
        self._say(topology.replies, self._controller, Batch("i" * 1000, list(FRAMES)))

    def _waiting(self, queue: str) -> int:
        return self._channel.queue_declare(queue, passive=True).method.message_count or 0

    def _say(self, exchange: str, key: str, message: msgspec.Struct) -> None:
        """A message as it should be, one of the next version, and some that were damaged on the way."""
        body = codec.encode(message)
        tag = codec.type_of(message)
        self._publish(exchange, key, body, NEXT_VERSION, tag)
        for _ in range(3):
            damaged = bytearray(body)
            damaged[self._random.randrange(len(damaged))] = self._random.randrange(256)
            self._publish(exchange, key, bytes(damaged), codec.CONTENT_TYPE, tag)
        # The last one: what the fleet believes of itself in the end comes from messages that are well-formed.
        self._publish(exchange, key, body, codec.CONTENT_TYPE, tag)

    def _publish(self, exchange: str, key: str, body: bytes, content_type: str | None, tag: str) -> None:
        self._channel.basic_publish(exchange, key, body, pika.BasicProperties(content_type=content_type, type=tag))
