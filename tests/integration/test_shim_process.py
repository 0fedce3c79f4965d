"""The public API on a real broker: whole processes with engines that misbehave, and a worker whose models change."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from broker_wire.messages import Ability, Announce, End, Failed, Goodbye, Obituary, Piece, Texts
from broker_wire.topology import Topology
from tests.integration.worker_harness import WITHIN, ControllerDouble
from tests.processes import Process, Processes
from tests.waiting import eventually
from workers_shim import Request, Worker

MISBEHAVING = """
import time
from collections.abc import AsyncIterator, Iterator
from workers_shim import Request, Worker

worker = Worker(slots=8)

@worker.model("blocks")
def blocks(request: Request) -> Iterator[str]:
    yield "begun"
    time.sleep(600)

@worker.model("computes")
def computes(request: Request) -> Iterator[str]:
    yield "begun"
    while not request.cancelled:
        sum(range(1000))

@worker.model("blocks_its_loop")
async def blocks_its_loop(request: Request) -> AsyncIterator[str]:
    yield "begun"
    time.sleep(600)

@worker.model("raises")
def raises(request: Request) -> Iterator[str]:
    yield "begun"
    raise ZeroDivisionError("division by zero")

@worker.model("good")
def good(request: Request) -> Iterator[str]:
    yield from request.prompt
"""
PROMPT = b'{"prompt": "abc"}'

StartWorker = Callable[..., Process]


@pytest.fixture
async def controller(broker_url: str, prefix: str) -> AsyncIterator[ControllerDouble]:
    async with ControllerDouble(broker_url, Topology(prefix)) as double:
        yield double


@pytest.fixture
def start_worker(processes: Processes, broker_url: str, prefix: str, tmp_path: Path) -> StartWorker:
    (tmp_path / "misbehaving.py").write_text(MISBEHAVING)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])

    def start() -> Process:
        options = ["--name", "w1", "--broker-url", broker_url, "--prefix", prefix]
        return processes.start(
            "python", "-m", "workers_shim", "run", "misbehaving:worker", *options, env={"PYTHONPATH": path}
        )

    return start


async def test_engines_that_block_or_compute_or_raise_disturb_nobody(
    controller: ControllerDouble, start_worker: StartWorker
) -> None:
    worker = start_worker()
    await controller.hears(Announce)
    running = [await controller.submit(model, body=PROMPT) for model in ("blocks", "computes", "blocks_its_loop")]
    for generate in running:
        await controller.frame(Texts, generate.stream)

    failed = await controller.submit("raises", body=PROMPT)
    good = await controller.submit("good", body=PROMPT)

    assert (await controller.frame(Failed, failed.stream)).message == "ZeroDivisionError: division by zero"
    await controller.frame(End, good.stream)
    assert controller.text(good.stream) == "abc"
    worker.wait_for_output(rf"ERROR request failed request={failed.request_id} model=raises")
    worker.wait_for_output("^ZeroDivisionError: division by zero$")
    worker.kill()


async def test_a_request_may_kill_an_echo_that_allows_it(
    controller: ControllerDouble, processes: Processes, broker_url: str, prefix: str
) -> None:
    broker = ("--broker-url", broker_url, "--prefix", prefix)
    worker = processes.start("workers-shim", "echo", "--model", "m", "--allow-kill", *broker)
    await controller.hears(Announce)

    pace = {"tokens_per_second": 20, "die_after": 3}
    generate = await controller.submit("m", body=json.dumps({"prompt": "a b c d", "echo_engine": pace}).encode())
    await controller.hears(Obituary)

    assert "a b c".startswith(controller.text(generate.stream))
    assert worker.wait() == -signal.SIGKILL


OLD_CODE = """
import json
from collections.abc import Iterator
from workers_shim import Request

def generate(request: Request) -> Iterator[bytes]:
    text = request.prompt
    for word in ("once", " upon", " a", " time"):
        text += word
        yield json.dumps({"text": text, "error_code": 0}).encode() + b"\\0"

def chat(request: Request) -> Iterator[dict]:
    for word in ("once", " upon"):
        yield {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
"""


@pytest.mark.parametrize(("function", "shape"), [("generate", "cumulative-after-prompt"), ("chat", "chunks")])
async def test_a_function_of_any_shape_is_a_worker(
    controller: ControllerDouble,
    processes: Processes,
    broker_url: str,
    prefix: str,
    tmp_path: Path,
    function: str,
    shape: str,
) -> None:
    (tmp_path / "old_code.py").write_text(OLD_CODE)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    command = ("-m", "workers_shim", "run", f"old_code:{function}", "--model", "m", "--yields", shape)
    broker = ("--broker-url", broker_url, "--prefix", prefix)
    processes.start("python", *command, *broker, env={"PYTHONPATH": path})
    await controller.hears(Announce)

    generate = await controller.submit("m", body=PROMPT)
    end = await controller.frame(End, generate.stream)

    if shape == "chunks":
        pieces = controller.seen(Piece, generate.stream)
        assert [piece.text for piece in pieces] == ["once", " upon", ""]
        assert all(piece.payload for piece in pieces)
        assert end.finish_reason == "length"
    else:
        assert controller.text(generate.stream) == "once upon a time"


async def test_a_second_signal_ends_a_worker_whose_engine_hangs(
    controller: ControllerDouble, start_worker: StartWorker
) -> None:
    worker = start_worker()
    await controller.hears(Announce)
    generate = await controller.submit("blocks", body=PROMPT)
    await controller.frame(Texts, generate.stream)

    worker.signal(signal.SIGTERM)
    await asyncio.to_thread(worker.wait_for_output, "draining signal=SIGTERM")
    assert worker.returncode is None
    worker.signal(signal.SIGTERM)

    assert await asyncio.to_thread(worker.wait, WITHIN) == 0
    assert "Traceback" not in worker.output()
    # The request is there for somebody else.
    await eventually(lambda: bool(controller.said(Goodbye) or controller.said(Obituary)), WITHIN)
    model_queue = controller.topology.model_queue("blocks").name
    for _ in range(200):
        if await controller.ready(model_queue) == 1:
            return
        await asyncio.sleep(0.05)
    pytest.fail("the request was lost")


async def test_models_come_to_a_live_worker_and_go(controller: ControllerDouble, broker_url: str, prefix: str) -> None:
    def spell(request: Request) -> Iterator[str]:
        yield from request.prompt or ""

    worker = Worker("w1", broker_url=broker_url, prefix=prefix)
    worker.add_model("first", spell)
    serving = asyncio.create_task(worker.serve())
    await controller.hears(Announce)

    await asyncio.to_thread(worker.add_model, "second", spell, abilities=["completion"], context_length=7)
    announce = await controller.hears(Announce, count=2)
    assert {card.name for card in announce.models} == {"first", "second"}
    [card] = [card for card in announce.models if card.name == "second"]
    assert (card.abilities, card.context_length) == ((Ability.COMPLETION,), 7)
    generate = await controller.submit("second", body=PROMPT)
    await controller.frame(End, generate.stream)
    assert controller.text(generate.stream) == "abc"

    await asyncio.to_thread(worker.remove_model, "first")
    announce = await controller.hears(Announce, count=3)
    assert [card.name for card in announce.models] == ["second"]

    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(serving, WITHIN)
    await controller.hears(Goodbye)
