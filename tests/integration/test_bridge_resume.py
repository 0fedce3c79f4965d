"""An answer of an HTTP worker of the old kind goes on at another one, or by another controller, when somebody dies."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from broker_controller.decisions import Limits
from broker_controller.errors import EngineError, WorkerLostError
from broker_controller.streams import GenerationStream, one_by_one
from broker_wire.messages import Operation, Usage
from tests.integration.bridging import BridgingController, Received, read_all
from tests.processes import Process, Processes
from tests.waiting import Eventually

WORDS = [f"w{number}" for number in range(30)]
TEXT = " ".join(WORDS)
PAUSE = "0.05"
"""Seconds a word."""


@pytest.fixture
async def controller(broker_url: str, prefix: str) -> AsyncIterator[BridgingController]:
    async with BridgingController(broker_url, prefix).running() as running:
        yield running


class Workers:
    """HTTP workers, by their URL."""

    def __init__(self, processes: Processes, free_port: Callable[[], int]) -> None:
        self._processes = processes
        self._free_port = free_port
        self.running: dict[str, Process] = {}

    def start(self, kind: str) -> str:
        port = self._free_port()
        process = self._processes.start(
            "python", "-m", "tests.old_workers", kind, "--port", str(port), "--pause", PAUSE
        )
        process.wait_for_output("Uvicorn running")
        url = f"http://localhost:{port}"
        self.running[url] = process
        return url

    async def start_two(self, kind: str, controller: BridgingController, eventually: Eventually) -> None:
        for url in (self.start(kind), self.start(kind)):
            assert await controller.bridges.register(url, True, None)
            await eventually(lambda url=url: controller.bridges_it(url))  # type: ignore[misc]

    def kill(self, url: str) -> str:
        """Returns: the other one."""
        self.running.pop(url).kill()
        return next(iter(self.running))


@pytest.fixture
def workers(processes: Processes, free_port: Callable[[], int]) -> Workers:
    return Workers(processes, free_port)


async def some_of(stream: GenerationStream, words: int) -> Received:
    received = Received()
    while len(received.text.split()) < words:
        await stream.wait()
        received.take(one_by_one(stream.take()))
    assert received.end is None
    return received


async def rest_of(stream: GenerationStream, received: Received) -> Received:
    rest = await read_all(stream)
    received.text += rest.text
    received.end = rest.end
    return received


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def seen(url: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{url}/seen").json()
    return answer


ASKED = {
    Operation.LLAVA: body(prompt=f"SAY {TEXT}|", stop="###", max_new_tokens=100),
    Operation.COMPLETION: body(prompt=f"SAY {TEXT}|", max_tokens=100),
    Operation.CHAT: body(messages=[{"role": "user", "content": f"SAY {TEXT}|"}], max_tokens=100),
}


@pytest.mark.parametrize("operation", ASKED)
@pytest.mark.parametrize("kind", ["llava", "fastchat"])
async def test_the_answer_of_an_http_worker_that_is_killed_goes_on_at_another_one(
    controller: BridgingController, workers: Workers, eventually: Eventually, kind: str, operation: Operation
) -> None:
    await workers.start_two(kind, controller, eventually)
    stream = await controller.ask(operation, ASKED[operation])
    received = await some_of(stream, 5)

    heir = workers.kill(stream.life.worker)
    await rest_of(stream, received)

    assert received.text == TEXT
    assert stream.life.worker == heir
    assert received.end is not None
    assert received.end.usage == (Usage(7, len(WORDS)) if kind == "fastchat" else None)
    asked = seen(heir)["parameters"]
    begun = asked["prompt"].rpartition("w0")[2]
    assert TEXT.startswith(f"w0{begun}")
    if kind == "fastchat":
        assert asked["max_new_tokens"] == 100 - len(f"w0{begun}".split())
    else:
        assert 0 < asked["max_new_tokens"] < 100


async def test_an_answer_that_its_limit_had_ended_but_for_the_end_is_not_longer_than_that(
    controller: BridgingController, workers: Workers, eventually: Eventually
) -> None:
    await workers.start_two("fastchat", controller, eventually)
    stream = await controller.ask(Operation.COMPLETION, body(prompt=f"SAY {TEXT}|", max_tokens=9))
    received = await some_of(stream, 5)

    workers.kill(stream.life.worker)
    await rest_of(stream, received)

    assert received.text == " ".join(WORDS[:9])
    assert received.end is not None
    assert (received.end.finish_reason, received.end.usage) == ("length", Usage(7, 9))


async def test_an_answer_whose_http_worker_has_died_as_the_last_one_ends_as_an_error_though_it_is_registered(
    broker_url: str, prefix: str, workers: Workers, eventually: Eventually
) -> None:
    async with BridgingController(broker_url, prefix, limits=Limits(worker_wait=0.5)).running() as controller:
        url = workers.start("llava")
        assert await controller.bridges.register(url, True, None)
        await eventually(lambda: controller.bridges_it(url))
        stream = await controller.ask(Operation.LLAVA, ASKED[Operation.LLAVA])
        received = await some_of(stream, 5)

        workers.running[url].kill()
        with pytest.raises(WorkerLostError, match=r"all workers of the model have left, and none came back in 0\.5 s"):
            await rest_of(stream, received)

        assert controller.state_of(url) == "away"


async def test_a_request_at_which_http_workers_die_before_they_say_a_word_is_not_given_to_all_of_them(
    controller: BridgingController, workers: Workers, eventually: Eventually
) -> None:
    await workers.start_two("llava", controller, eventually)
    url = workers.start("llava")
    await controller.bridges.register(url, True, None)
    await eventually(lambda: controller.bridges_it(url))

    with pytest.raises((EngineError, WorkerLostError)):
        await read_all(await controller.ask(Operation.LLAVA, body(prompt="SAY !die|", stop="###")))

    assert len([process for process in workers.running.values() if process.returncode is None]) == 1


async def test_the_answer_goes_on_when_the_controller_that_bridges_the_worker_is_killed(
    controller: BridgingController,
    workers: Workers,
    broker_url: str,
    prefix: str,
    processes: Processes,
    eventually: Eventually,
) -> None:
    url = workers.start("llava")
    owner = processes.start("python", "-m", "tests.integration.bridging", broker_url, prefix, url)
    owner.wait_for_output("^bridging$")
    await eventually(lambda: controller.state_of(url) == "watching")
    stream = await controller.ask(Operation.LLAVA, ASKED[Operation.LLAVA])
    received = await some_of(stream, 5)

    owner.kill()
    await rest_of(stream, received)

    assert received.text == TEXT
    assert controller.state_of(url) == "bridging"
    await eventually(lambda: seen(url)["left"] == 1)
