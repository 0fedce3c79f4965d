"""Questions about a model over a real broker: outside of the slots, from any controller, to workers of all kinds."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from broker_controller import questions
from broker_controller.errors import EngineError, EngineRefusedError
from broker_controller.http.worker_embeddings import encode_embeddings
from broker_controller.streams import GenerationStream, one_by_one
from broker_wire.messages import End, ModelCard, Operation, Piece, Question, QuestionKind
from broker_wire.topology import Topology
from tests.integration.bridging import BridgingController
from tests.integration.hand_worker import HandWorker
from tests.old_workers import TEMPLATE
from tests.processes import Processes
from tests.waiting import Eventually
from workers_shim import Request, Worker
from workers_shim.config import LeaveReason

COUNT = b'{"model": "m", "prompt": "one two three"}'
ANSWERS = ("count_tokens",)


@pytest.fixture
async def controller(broker_url: str, prefix: str) -> AsyncIterator[BridgingController]:
    async with BridgingController(broker_url, prefix).running() as running:
        yield running


@contextlib.asynccontextmanager
async def serving(worker: Worker) -> AsyncIterator["asyncio.Task[LeaveReason]"]:
    task = asyncio.create_task(worker.serve())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def card_of(controller: BridgingController, worker: str) -> ModelCard | None:
    record = controller.service.controller.registry.get(worker)
    return next(iter(record.models), None) if record is not None and record.instance else None


async def count(controller: BridgingController) -> object:
    return json.loads(await controller.service.questions.ask(QuestionKind.COUNT_TOKENS, "m", COUNT))


async def test_a_worker_whose_slots_are_full_counts_at_once(
    controller: BridgingController, broker_url: str, prefix: str, eventually: Eventually
) -> None:
    def endless(request: Request) -> Iterator[str]:
        while not request.cancelled:
            yield "x"

    worker = Worker("w1", slots=1, broker_url=broker_url, prefix=prefix, drain_timeout=1.0)
    worker.add_model("m", endless, count_tokens=lambda text: len(text.split()))
    async with serving(worker):
        await eventually(lambda: card_of(controller, "w1"))
        running = await controller.ask(Operation.COMPLETION, b'{"model": "m", "prompt": "p"}')
        waiting = await controller.ask(Operation.COMPLETION, b'{"model": "m", "prompt": "p"}')
        await eventually(lambda: running.start)

        counts = await asyncio.gather(*(count(controller) for _ in range(20)))

        assert counts == [{"count": 3, "error_code": 0}] * 20
        assert waiting.start is None
        running.cancel()
        waiting.cancel()


async def test_of_two_workers_the_one_that_is_gone_or_silent_is_left(
    controller: BridgingController,
    broker_url: str,
    prefix: str,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(questions, "ANSWER_TIME", 0.2)
    worker = Worker("w1", broker_url=broker_url, prefix=prefix)
    worker.add_model("m", lambda _: iter(["x"]), count_tokens=lambda text: len(text.split()))
    async with serving(worker), HandWorker(broker_url, Topology(prefix), "silent", "m") as silent:
        silent.announce(answers=ANSWERS)
        await eventually(lambda: card_of(controller, "w1") and card_of(controller, "silent"))
        while silent.control.empty():
            assert await count(controller) == {"count": 3, "error_code": 0}
        assert isinstance(await silent.told(Question), Question)
        # Without a last will it stays in the registry; but its queue has gone.
        await silent.die()
        monkeypatch.setattr(questions, "ANSWER_TIME", 30.0)
        for _ in range(20):
            assert await count(controller) == {"count": 3, "error_code": 0}


# --- workers of the old kind


@pytest.fixture
def start_old(processes: Processes, free_port: Callable[[], int]) -> Callable[[str], str]:
    def start(kind: str) -> str:
        port = free_port()
        process = processes.start("python", "-m", "tests.old_workers", kind, "--port", str(port))
        process.wait_for_output("Uvicorn running")
        return f"http://localhost:{port}"

    return start


async def embed(controller: BridgingController, *inputs: object) -> object:
    body = json.dumps({"model": "m", "input": inputs, "encoding_format": None}).encode()
    stream = await controller.ask(Operation.EMBEDDING, body)
    return json.loads(encode_embeddings(await all_of(stream)))


async def all_of(stream: GenerationStream) -> list[str | Piece | End]:
    items: list[str | Piece | End] = []
    async with asyncio.timeout(30):
        while not (items and isinstance(items[-1], End)):
            await stream.wait()
            items += one_by_one(stream.take())
    return items


async def test_a_bridged_worker_of_fastchats_answers_itself_whichever_controller_is_asked(
    controller: BridgingController,
    broker_url: str,
    prefix: str,
    start_old: Callable[[str], str],
    eventually: Eventually,
) -> None:
    url = start_old("fastchat")
    await controller.bridges.register(url, True, None)
    await eventually(lambda: controller.bridges_it(url))
    # It may call no HTTP worker itself.
    async with BridgingController(broker_url, prefix, http_workers=()).running() as another:
        await eventually(lambda: card_of(another, url))
        for asked in (controller, another):
            ask = asked.service.questions.ask
            assert await count(asked) == {"count": 7, "error_code": 0}
            details = await ask(QuestionKind.CONTEXT_LENGTH, "m", b'{"model": "m"}')
            assert json.loads(details) == {"context_length": 4096}
            conversation = await ask(QuestionKind.CONVERSATION, "m", b'{"model": "m"}')
            assert json.loads(conversation) == {"conv": TEMPLATE}
            assert await embed(asked, "one", "three") == {"embedding": [[3.0, 0.5], [5.0, 0.5]], "token_num": 2}
        with pytest.raises(EngineError, match="the tensor is too small"):
            await embed(controller, "!error")
        with pytest.raises(EngineRefusedError, match="takes no token numbers"):
            await embed(controller, 1, 2)


async def test_a_bridged_worker_of_llavas_tells_that_it_does_not_tell(
    controller: BridgingController, start_old: Callable[[str], str], eventually: Eventually
) -> None:
    url = start_old("llava")
    await controller.bridges.register(url, True, None)
    await eventually(lambda: controller.bridges_it(url))

    with pytest.raises(EngineRefusedError, match="/count_token with HTTP 404"):
        await count(controller)
    with pytest.raises(EngineRefusedError, match="makes no embeddings"):
        await embed(controller, "one")
