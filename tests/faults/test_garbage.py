"""Garbage into every exchange and every queue of a fleet while streams run: nothing stops, and all of it is counted."""

import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import pika
import pytest
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
from tests.acceptance.fleet import Fleet, RunningController, echo_text
from tests.processes import Process, Processes
from tests.waiting import eventually_sync

SECONDS = float(os.environ.get("GARBAGE_SECONDS", "4"))
"""How long it rains."""
PROMPT = "the quick brown fox jumps"
TOKENS = 60
CLIENTS = 6
BURST = 20
MOST_WAITING = 100
NEXT_VERSION = codec.CONTENT_TYPE.replace("v1", "v2")
HUGE = 2**63
NOBODY = "nobody"
"""A worker, an instance and a controller that are not there."""
NO_STREAM = 0x7172737475767778
"""Of no request; with some bytes changed, too."""

FRAMES: list[Frame] = [
    Started(NO_STREAM, 1, NOBODY, NOBODY),
    Ask(NO_STREAM, 1, NOBODY, NOBODY),
    Texts(NO_STREAM, HUGE, HUGE, ["a"]),
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
        UpstreamRegistration("no url", True, ("m",), speed=float("nan"), queue_length=HUGE),
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

    def burst(self, queues: list[str]) -> None:
        """Some of everything, everywhere; no faster than the workers take it, or the model's queue would be full."""
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
            for queue in queues:
                self.drop("requests", "", queue)
        for fleet_message in fleet_messages(self._number):
            self._say(topology.fleet, fleet_key, fleet_message)
        for message in VALID_CONTROL:
            self._say(topology.control, topology.all_workers_key, message)
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


@pytest.fixture
def fleet(processes: Processes, broker_url: str, prefix: str, free_port: Callable[[], int]) -> Iterator[Fleet]:
    """On the broker that all share: it is not harmed here."""
    with httpx.Client(timeout=60) as client:
        yield Fleet(processes, broker_url, prefix, free_port, client)


@pytest.mark.timeout(120 + SECONDS)
def test_garbage_everywhere_disturbs_no_stream_and_is_counted(fleet: Fleet, broker_url: str, prefix: str) -> None:
    controller = fleet.controller()
    workers = [fleet.worker(name, "--slots", "4", "--tokens-per-second", "60") for name in ("w1", "w2")]
    controller.wait_for_workers("w1", "w2")
    topology = Topology(prefix)
    queues = [topology.resume_queue("m").name, *(topology.pinned_queue(name).name for name in ("w1", "w2"))]
    queues += [topology.own_queue(name, "m").name for name in ("w1", "w2")]
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    try:
        channel = connection.channel()
        for queue in queues:
            channel.queue_declare(queue, passive=True)
        rain = Rain(channel, topology, controller.get("/status")["controller"]["id"], seed)
        over = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as clients:
            answers = [clients.submit(_stream_until, controller, over) for _ in range(CLIENTS)]
            try:
                until = time.monotonic() + SECONDS
                while time.monotonic() < until:
                    rain.burst(queues)
            finally:
                over.set()
            streams = sum(answer.result(60) for answer in answers)
        print(f"streams={streams} garbage={dict(rain.sure)} counted={controller.get('/status')['garbage']}")
        assert streams >= CLIENTS
        _all_is_counted(controller, workers, rain, topology)
    finally:
        connection.close()
    _all_is_well(controller)


def _stream_until(controller: RunningController, over: threading.Event) -> int:
    """Whole answers, one after the other. Returns: how many."""
    streams = 0
    while not over.is_set():
        last = controller.generate(PROMPT, TOKENS)
        assert (last["text"], last["error_code"]) == (echo_text(PROMPT, TOKENS), 0)
        streams += 1
    return streams


def _all_is_counted(controller: RunningController, workers: list[Process], rain: Rain, topology: Topology) -> None:
    def controller_counted() -> bool:
        counts = controller.get("/status")["garbage"]
        return all(counts.get(place, 0) >= rain.sure[place] for place in ("fleet", "replies"))

    def workers_counted() -> bool:
        # A worker says how much it was once a second, when more of it comes.
        for _ in workers:
            rain.drop("requests", topology.requests, topology.model_key("m"))
        rain.drop("control", topology.control, topology.all_workers_key)
        logged = [_logged(worker) for worker in workers]
        return (
            sum(counts["requests"] for counts in logged) >= rain.sure["requests"] - 2 * len(workers)
            and min(counts["control"] for counts in logged) >= rain.sure["control"] - 2
        )

    eventually_sync(controller_counted)
    eventually_sync(workers_counted)


def _logged(worker: Process) -> Counter[str]:
    counts: Counter[str] = Counter()
    for place, count in re.findall(r"garbage dropped place=(\w+) count=(\d+)", worker.output()):
        counts[place] += int(count)
    return counts


def _all_is_well(controller: RunningController) -> None:
    """Every page is there, both workers are free, and the next request is served."""

    def free() -> bool:
        known = {worker["name"]: worker for worker in controller.get("/status")["workers"]}
        return all(known[name]["state"] == "ready" and known[name]["free"] == 4 for name in ("w1", "w2"))

    eventually_sync(free)
    assert controller.get("/status")["streams"]["running"] == 0
    assert "m" in {model["id"] for model in controller.get("/v1/models")["data"]}
    assert "m" in controller.post("/list_models")["models"]
    assert controller.post("/worker_get_status")["model_names"]
    assert controller.post("/get_worker_address", {"model": "nothing"})["address"]
    assert controller.chat(PROMPT, 3).status_code == 200
