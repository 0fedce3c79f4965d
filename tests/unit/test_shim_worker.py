"""The public API's own part: what a worker refuses, and its life as part of another program."""

import asyncio
import concurrent.futures
import socket
from collections.abc import Iterator

import pytest

from broker_wire.messages import FailureKind
from tests.unit.fake_stream import FakeStream, assignment
from workers_shim import Request, Worker
from workers_shim.session import LeaveReason

NOBODY_LISTENS = "amqp://localhost:1/"
PATIENCE = 20.0


def abc(request: Request) -> list[str]:
    return ["a", "b", "c"]


async def aabc(request: Request):  # type: ignore[no-untyped-def]
    yield "a"


def test_a_model_that_does_not_stream_tells_the_fleet_so() -> None:
    worker = Worker()
    worker.model("whole", streams=False)(abc)
    worker.model("pieces")(abc)

    assert [(card.name, card.streams) for card in worker.models] == [("whole", False), ("pieces", True)]


async def start(worker: Worker) -> "asyncio.Task[LeaveReason]":
    serving = asyncio.create_task(worker.serve())
    await asyncio.sleep(0)
    assert worker.alive
    return serving


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "not allowed"}, "worker name 'not allowed' is refused"),
        ({"slots": 0}, "slots has to be at least 1"),
        ({"speed": float("inf")}, "speed has to be 0 or more"),
        ({"prefix": ""}, "prefix '' is refused"),
        ({"heartbeat_interval": 0.0}, "heartbeat_interval has to be more than 0"),
        ({"drain_timeout": -1.0}, "drain_timeout has to be more than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Worker(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"name": ""}, "model name '' is refused"),
        ({"name": "m", "abilities": ["fly"]}, r"abilities of model 'm' have to be some of .*'chat'"),
        ({"name": "m", "abilities": []}, "abilities of model 'm'"),
        ({"name": "m", "resume": "sometimes"}, "resume of model 'm' has to be one of .*'prefix'"),
        ({"name": "m", "resume": ("prefix", "sometimes")}, "resume of model 'm' has to be one of .* several of them"),
        ({"name": "m", "resume": ()}, "resume of model 'm'"),
        ({"name": "m", "context_length": 0}, "context_length of model 'm' has to be at least 1"),
    ],
)
def test_models_that_cannot_be_are_refused(how: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Worker().add_model(generate=abc, **how)  # type: ignore[arg-type]


def test_a_plain_generator_cannot_share_a_loop() -> None:
    def generate(request: Request):  # type: ignore[no-untyped-def]
        yield "a"

    with pytest.raises(ValueError, match="has to be an async generator"):
        Worker().add_model("m", generate, shared_loop=True)


def test_the_decorator_leaves_the_function_as_it_is() -> None:
    worker = Worker("w")
    decorated = worker.model("m", abilities=["chat", "vision"], context_length=9)(abc)

    assert decorated is abc
    [card] = worker.models
    assert (card.name, card.context_length) == ("m", 9)


@pytest.mark.parametrize("how", ["add_model", "decorator"])
async def test_an_answer_that_has_begun_is_neither_repeated_nor_continued_unless_the_author_says_that_it_may(
    how: str,
) -> None:
    called = []

    def generate(request: Request) -> Iterator[str]:
        called.append(request)
        yield "abc"

    worker = Worker()
    if how == "add_model":
        worker.add_model("m", generate)
    else:
        worker.model("m")(generate)
    stream = FakeStream()
    worker._executor.start(assignment(text="ab"), stream)
    await asyncio.to_thread(stream.wait_over)

    assert stream.failure[0] is FailureKind.NOT_RESUMABLE
    assert not called
    assert await worker._executor.aclose(PATIENCE)


def test_a_model_can_be_taken_away_before_the_start() -> None:
    worker = Worker()
    worker.add_model("m", abc)
    worker.remove_model("m")

    with pytest.raises(ValueError, match="has no model"):
        worker.run()


def test_a_brokers_address_that_cannot_be_is_said_where_the_worker_is_started() -> None:
    worker = Worker(broker_url="http://localhost")
    worker.add_model("m", abc)

    with pytest.raises(ValueError, match="amqp://"):
        worker.run()


async def test_a_worker_inside_another_program_leaves_when_it_is_told_to() -> None:
    worker = Worker(broker_url=NOBODY_LISTENS)
    worker.add_model("m", abc)
    serving = await start(worker)
    # It lives, whether connected or not, and models may come and go.
    worker.add_model("n", aabc, shared_loop=True)
    worker.remove_model("m")
    assert [card.name for card in worker.models] == ["n"]

    worker.drain()

    assert await asyncio.wait_for(serving, PATIENCE) == "drained"
    assert not worker.alive
    # After the end these are only words.
    worker.drain()
    worker.add_model("o", abc)


async def test_cancelling_the_task_that_serves_drains_the_worker() -> None:
    worker = Worker(broker_url=NOBODY_LISTENS)
    worker.add_model("m", abc)
    serving = await start(worker)

    serving.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(serving, PATIENCE)
    assert not worker.alive


async def test_what_is_said_to_a_worker_in_its_last_moment_is_no_error() -> None:
    """Its loop is closed a moment before anybody can know that: a second signal, or a model that comes."""
    worker = Worker(broker_url=NOBODY_LISTENS)
    worker.add_model("m", abc)
    serving = await start(worker)
    worker.drain()
    await asyncio.wait_for(serving, PATIENCE)
    assert worker._life is not None
    worker._life.finished = concurrent.futures.Future()

    worker.drain()
    worker.add_model("n", abc)
    worker.remove_model("n")


async def test_a_worker_lives_once() -> None:
    worker = Worker(broker_url=NOBODY_LISTENS)
    worker.add_model("m", abc)
    serving = await start(worker)
    worker.drain()
    await asyncio.wait_for(serving, PATIENCE)

    with pytest.raises(RuntimeError, match="has been started already"):
        await worker.serve()


def test_the_default_name_is_allowed_whatever_the_host_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "höst name/" * 20)

    assert len(Worker().config.name) <= 128
