"""`workers-shim http` beside a worker of the old kind, behind a real RabbitMQ: whole processes, and the double of a
controller."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest

from broker_controller.streams import one_by_one
from broker_wire.messages import Ability, Announce, Cancel, End, Failed, FailureKind, Heartbeat, Operation, Texts, Usage
from broker_wire.topology import Topology
from tests.integration.bridging import BridgingController, Received, read_all
from tests.integration.worker_harness import WITHIN, ControllerDouble
from tests.processes import Process, Processes
from tests.waiting import eventually


class Site:
    """The machine of an old worker, and of the worker that stands for it."""

    def __init__(self, processes: Processes, port: int, broker_url: str, prefix: str, name: str = "w1") -> None:
        self._processes = processes
        self._port = port
        self._name = name
        self._broker = ("--broker-url", broker_url, "--prefix", prefix)
        self.url = f"http://localhost:{port}"

    def start_worker(self, kind: str, *arguments: str) -> Process:
        process = self._processes.start(
            "python", "-m", "tests.old_workers", kind, "--port", str(self._port), *arguments
        )
        process.wait_for_output("Uvicorn running")
        return process

    def start_shim(self, *arguments: str) -> Process:
        return self._processes.start(
            "python", "-m", "workers_shim", "http", "--url", self.url, "--name", self._name, *self._broker, *arguments
        )

    def seen(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.url}/seen").json()
        return answer


@pytest.fixture
async def controller(broker_url: str, prefix: str) -> AsyncIterator[ControllerDouble]:
    async with ControllerDouble(broker_url, Topology(prefix)) as double:
        yield double


@pytest.fixture
def site(processes: Processes, free_port: Callable[[], int], broker_url: str, prefix: str) -> Site:
    return Site(processes, free_port(), broker_url, prefix)


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


async def serves(controller: ControllerDouble, *models: str) -> Announce:
    """Until the worker's latest announce has these models."""

    def latest() -> bool:
        said = controller.said(Announce)
        return bool(said) and {card.name for card in said[-1].models} == set(models)

    await eventually(latest, WITHIN)
    return controller.said(Announce)[-1]


async def test_a_chat_is_written_by_the_workers_own_template_and_its_answer_has_deltas_and_usage(
    controller: ControllerDouble, site: Site
) -> None:
    site.start_worker("fastchat", "--model", "vicuna", "--model", "llava")
    site.start_shim()
    announce = await serves(controller, "vicuna", "llava")
    asked = body(messages=[{"role": "user", "content": "SAY one two|"}])

    generate = await controller.submit("vicuna", operation=Operation.CHAT, body=asked)
    end = await controller.frame(End, generate.stream)

    assert controller.text(generate.stream) == "one two"
    assert end.usage == Usage(7, 2)
    assert site.seen()["parameters"]["prompt"] == "user\nSAY one two|\nbot\n"
    assert (announce.slots, announce.speed, announce.bridged) == (5, 1.0, False)
    abilities: Mapping[str, Any] = {card.name: card.abilities for card in announce.models}
    assert Ability.VISION in abilities["llava"]
    assert Ability.VISION not in abilities["vicuna"]


async def test_a_model_is_asked_for_by_the_workers_own_name_and_the_others_are_left_out(
    controller: ControllerDouble, site: Site
) -> None:
    site.start_worker("llava", "--model", "theirs", "--model", "other")
    site.start_shim("--model", "ours=theirs", "--slots", "2", "--speed", "3")
    announce = await serves(controller, "ours")

    generate = await controller.submit(
        "ours", operation=Operation.LLAVA, body=body(model="ours", prompt="SAY hello there|", stop="###")
    )
    await controller.frame(End, generate.stream)

    assert controller.text(generate.stream) == "hello there"
    assert site.seen()["parameters"]["model"] == "theirs"
    assert (announce.slots, announce.speed) == (2, 3.0)


async def test_a_cancel_reaches_the_worker(controller: ControllerDouble, site: Site) -> None:
    site.start_worker("llava")
    site.start_shim()
    await serves(controller, "m")
    generate = await controller.submit(body=body(prompt="SAY one !hang|"))
    await controller.frame(Texts, generate.stream)

    await controller.control(controller.topology.model_key("m"), Cancel("c1", generate.stream))

    await eventually(lambda: site.seen()["left"] == 1, WITHIN)


async def test_a_worker_that_is_killed_is_lost_in_the_middle_and_has_its_models_again_when_it_is_back(
    controller: ControllerDouble, site: Site
) -> None:
    worker = site.start_worker("llava")
    site.start_shim()
    await serves(controller, "m")
    begun = await controller.submit(body=body(prompt="SAY one !hang|"))
    await controller.frame(Texts, begun.stream)

    worker.kill()

    assert (await controller.frame(Failed, begun.stream)).kind is FailureKind.LOST
    await serves(controller)
    # With other models, as if it had been started anew.
    site.start_worker("llava", "--model", "m", "--model", "n")
    await serves(controller, "m", "n")
    generate = await controller.submit("n", body=body(prompt="SAY back|"))
    await controller.frame(End, generate.stream)
    assert controller.text(generate.stream) == "back"


async def test_an_answer_in_which_the_worker_dies_goes_on_at_another_site(
    processes: Processes, free_port: Callable[[], int], broker_url: str, prefix: str
) -> None:
    words = [f"w{number}" for number in range(30)]
    sites = {name: Site(processes, free_port(), broker_url, prefix, name) for name in ("w1", "w2")}
    workers = {name: site.start_worker("fastchat", "--pause", "0.05") for name, site in sites.items()}
    async with BridgingController(broker_url, prefix).running() as controller:
        registry = controller.service.controller.registry
        for site in sites.values():
            site.start_shim()
        await eventually(lambda: {record.name for record in registry.workers() if record.model_names} == {"w1", "w2"})
        stream = await controller.ask(Operation.COMPLETION, body(model="m", prompt=f"SAY {' '.join(words)}|"))
        received = Received()
        while len(received.text.split()) < 5:
            await stream.wait()
            received.take(one_by_one(stream.take()))

        dying = stream.life.worker
        workers[dying].kill()
        rest = await read_all(stream)

        assert received.text + rest.text == " ".join(words)
        assert stream.life.worker != dying
        assert rest.end is not None
        assert rest.end.usage == Usage(7, len(words))
        await eventually(lambda: (record := registry.get(dying)) is not None and not record.model_names)


async def test_what_the_worker_does_for_others_is_a_part_of_its_load(controller: ControllerDouble, site: Site) -> None:
    site.start_worker("llava")
    site.start_shim()
    await serves(controller, "m")

    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", f"{site.url}/worker_generate_stream", json={"prompt": "SAY one !hang|", "stop": "#"}),
    ):
        await eventually(lambda: any(beat.load.waiting == 1 for beat in controller.said(Heartbeat)), WITHIN)


async def test_it_waits_for_a_worker_that_loads_its_model(controller: ControllerDouble, site: Site) -> None:
    shim = site.start_shim()
    shim.wait_for_output("waiting for the HTTP worker")
    assert controller.said(Announce) == []

    site.start_worker("llava")

    await serves(controller, "m")


def test_a_model_that_the_worker_does_not_have_is_said(site: Site) -> None:
    site.start_worker("llava")

    shim = site.start_shim("--model", "x")

    assert shim.wait() == 2
    assert "serves m, which is not what --model asks for: x" in shim.output()
