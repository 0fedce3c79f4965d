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
import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from broker_wire.topology import Topology
from tests.acceptance.fleet import Fleet, RunningController, echo_text
from tests.faults.rain import OLD_MODEL, WILL, Place, Rain
from tests.processes import Process, Processes
from tests.waiting import eventually_sync

SECONDS = float(os.environ.get("GARBAGE_SECONDS", "4"))
"""How long it rains."""
PROMPT = "the quick brown fox jumps"
TOKENS = 60
CLIENTS = 6


@pytest.fixture
def fleet(processes: Processes, broker_url: str, prefix: str, free_port: Callable[[], int]) -> Iterator[Fleet]:
    """On the broker that all share: it is not harmed here."""
    with httpx.Client(timeout=60) as client:
        yield Fleet(processes, broker_url, prefix, free_port, client)


@pytest.mark.timeout(120 + SECONDS)
def test_garbage_everywhere_disturbs_no_stream_and_is_counted(
    fleet: Fleet, processes: Processes, free_port: Callable[[], int], broker_url: str, prefix: str
) -> None:
    controller = fleet.controller()
    workers = [fleet.worker(name, "--slots", "4", "--tokens-per-second", "60") for name in ("w1", "w2")]
    old_worker = _register_old_worker(controller, processes, free_port())
    controller.wait_for_workers("w1", "w2", old_worker)
    topology = Topology(prefix)
    instances = [worker["instance"] for worker in controller.get("/status")["workers"]]
    seed = random.randrange(2**32)
    print(f"seed={seed}")
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    try:
        channel = connection.channel()
        places = _places(connection, topology, instances, old_worker)
        rain = Rain(channel, topology, controller.get("/status")["controller"]["id"], seed)
        over = threading.Event()
        with ThreadPoolExecutor(CLIENTS + 1) as clients:
            answers = [clients.submit(_stream_until, controller, over) for _ in range(CLIENTS)]
            bridged = clients.submit(_stream_bridged_until, controller, over)
            try:
                until = time.monotonic() + SECONDS
                while time.monotonic() < until:
                    rain.burst(places)
            finally:
                over.set()
            streams, through_bridge = sum(answer.result(60) for answer in answers), bridged.result(60)
        counted = controller.get("/status")["garbage"]
        print(f"streams={streams} bridged={through_bridge} garbage={dict(rain.sure)} counted={counted}")
        assert streams >= CLIENTS
        assert through_bridge > 0
        _all_is_counted(controller, workers, instances, rain, topology)
    finally:
        connection.close()
    _all_is_well(controller, old_worker)
    # The obituaries are still the workers' own.
    workers[0].kill()
    eventually_sync(lambda: controller.workers()["w1"] == "lost")


def _places(
    connection: pika.BlockingConnection, topology: Topology, instances: list[str], old_worker: str
) -> list[Place]:
    """The queues with names; all of them are there."""
    queues = [topology.resume_queue("m"), *(topology.pinned_queue(name) for name in ("w1", "w2"))]
    queues += [topology.own_queue(name, "m") for name in ("w1", "w2")]
    wills = [topology.will_queue(old_worker, instance) for instance in instances]
    channel = connection.channel()
    for queue in queues + wills:
        channel.queue_declare(queue.name, passive=True)
    # Nobody reads it, and nobody else may look at it: it says by being there who bridges the worker.
    bridge = topology.bridge_queue(old_worker)
    with pytest.raises(ChannelClosedByBroker, match="RESOURCE_LOCKED"):
        channel.queue_declare(bridge.name, passive=True)
    return [
        *(("requests", "", queue.name) for queue in queues),
        *((WILL, will.exchange, will.routing_key) for will in wills),
        ("bridge", "", bridge.name),
        ("bridge", bridge.exchange, bridge.routing_key),
    ]


def _register_old_worker(controller: RunningController, processes: Processes, port: int) -> str:
    """Returns: its URL."""
    arguments = ("-m", "tests.old_workers", "llava", "--port", str(port), "--model", OLD_MODEL, "--pause", "0.01")
    processes.start("python", *arguments).wait_for_output("Uvicorn running")
    url = f"http://localhost:{port}"
    assert controller.post("/register_worker", {"worker_name": url, "check_heart_beat": False}) is None
    return url


def _stream_bridged_until(controller: RunningController, over: threading.Event) -> int:
    """The same through the bridge."""
    streams = 0
    while not over.is_set():
        last = controller.generate("SAY one two three|", 3, model=OLD_MODEL)
        assert (last["text"], last["error_code"]) == ("one two three", 0)
        streams += 1
    return streams


def _stream_until(controller: RunningController, over: threading.Event) -> int:
    """Whole answers, one after the other. Returns: how many."""
    streams = 0
    while not over.is_set():
        last = controller.generate(PROMPT, TOKENS)
        assert (last["text"], last["error_code"]) == (echo_text(PROMPT, TOKENS), 0)
        streams += 1
    return streams


def _all_is_counted(
    controller: RunningController, workers: list[Process], instances: list[str], rain: Rain, topology: Topology
) -> None:
    def controller_counted() -> bool:
        counts = controller.get("/status")["garbage"]
        return all(counts.get(place, 0) >= rain.sure[place] for place in ("fleet", "replies"))

    def wills_counted() -> bool:
        # What a worker cannot take at once goes the way of its obituary, and is counted there.
        for instance in instances:
            rain.drop(WILL, topology.control, topology.will_key(instance))
        passed_on: int = controller.get("/status")["garbage"]["fleet"] - rain.sure["fleet"]
        logged = sum(_logged(process)[WILL] for process in (controller.process, *workers))
        return logged + passed_on >= rain.sure[WILL] - 2 * len(instances)

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
    eventually_sync(wills_counted)


def _logged(worker: Process) -> Counter[str]:
    counts: Counter[str] = Counter()
    for place, count in re.findall(r"garbage dropped place=(\w+) count=(\d+)", worker.output()):
        counts[place] += int(count)
    return counts


def _all_is_well(controller: RunningController, old_worker: str) -> None:
    """Every page is there, all workers are free, and the next request is served."""

    def free() -> bool:
        known = {worker["name"]: worker for worker in controller.get("/status")["workers"]}
        names = ("w1", "w2", old_worker)
        return all(known[name]["state"] == "ready" and known[name]["free"] == known[name]["slots"] for name in names)

    eventually_sync(free)
    assert controller.get("/status")["streams"]["running"] == 0
    assert "m" in {model["id"] for model in controller.get("/v1/models")["data"]}
    assert "m" in controller.post("/list_models")["models"]
    assert controller.post("/worker_get_status")["model_names"]
    assert controller.post("/get_worker_address", {"model": "nothing"})["address"]
    assert controller.chat(PROMPT, 3).status_code == 200
