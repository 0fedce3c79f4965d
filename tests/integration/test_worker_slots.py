"""One pool of slots over all queues of a worker, on a real broker: what is held, and what is left to others."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from broker_wire.messages import Ask, End, Go
from broker_wire.topology import Topology
from tests.integration.amqp_harness import Proxy
from tests.integration.worker_harness import (
    WITHIN,
    ControllerDouble,
    EchoExecutor,
    HandExecutor,
    RunningWorker,
    announced_worker,
    comes_true,
)
from tests.waiting import eventually
from workers_shim.stream import Assignment, OutgoingStream

MODELS = ("m", "n")


class Granting(ControllerDouble):
    """A controller that lets every copy start, and counts what it sent and saw."""

    def __init__(self, url: str, topology: Topology) -> None:
        super().__init__(url, topology)
        self.sent = 0
        self._granted = 0
        self._attempts = itertools.count(2)

    async def grant_all(self) -> None:
        asks = self.seen(Ask)
        for ask in asks[self._granted :]:
            await self.tell(ask.instance, Go(self.controller, ask.stream, next(self._attempts)))
        self._granted = len(asks)

    async def waiting_everywhere(self, *workers: str, models: tuple[str, ...] = MODELS) -> int:
        """Requests that lie in any queue."""
        queues = [self.topology.pinned_queue(worker) for worker in workers]
        for model in models:
            queues += [self.topology.model_queue(model), self.topology.resume_queue(model)]
            queues += [self.topology.own_queue(worker, model) for worker in workers]
        return sum([await self.ready(queue.name) for queue in queues])


@pytest.fixture
async def controller(broker_url: str, prefix: str) -> AsyncIterator[Granting]:
    async with Granting(broker_url, Topology(prefix)) as double:
        yield double


def running(worker: RunningWorker) -> list[tuple[Assignment, OutgoingStream]]:
    started: list[tuple[Assignment, OutgoingStream]] = worker.executor.started
    return [(assignment, stream) for assignment, stream in started if id(stream) not in worker.executor.over]


class CountingExecutor(HandExecutor):
    """Remembers which of its streams a test has ended, and how many ran at most."""

    def __init__(self) -> None:
        super().__init__()
        self.over: set[int] = set()
        self.most = 0

    def start(self, assignment: Assignment, stream: OutgoingStream) -> None:
        super().start(assignment, stream)
        self.most = max(self.most, len(self.started) - len(self.over))

    def end(self, stream: OutgoingStream) -> None:
        self.over.add(id(stream))
        stream.offer("x")
        stream.end()
        stream.released()


async def test_with_two_models_and_its_own_queue_no_worker_holds_a_request_that_the_other_could_start(
    controller: Granting, broker_url: str
) -> None:
    """Requests come by every way and end in turns; whenever all is quiet, none waits while a slot is free."""
    names = ("w1", "w2")
    async with (
        announced_worker(controller, broker_url, CountingExecutor(), models=MODELS, slots=2) as one,
        announced_worker(controller, broker_url, CountingExecutor(), models=MODELS, slots=2, name="w2") as other,
    ):
        workers = (one, other)

        async def quiet() -> bool:
            """Four run, or as many as there are; everything else lies in a queue, where any worker can have it."""
            await controller.grant_all()
            in_engines = sum(len(running(worker)) for worker in workers)
            over = sum(len(worker.executor.over) for worker in workers)
            left = controller.sent - over
            if in_engines != min(4, left):
                return False
            return await controller.waiting_everywhere(*names) == left - in_engines

        ways = [
            ("m", controller.topology.model_key("m")),
            ("n", controller.topology.model_key("n")),
            ("m", controller.topology.own_queue("w1", "m").routing_key),
            ("n", controller.topology.own_queue("w2", "n").routing_key),
            ("n", controller.topology.resume_queue("n").routing_key),
        ]
        for batch in (1, 3, 7, 12, 2):
            for model, key in itertools.islice(itertools.cycle(ways), batch):
                await controller.submit(model, key=key)
                controller.sent += 1
            await comes_true(quiet)
            for _ in range(batch):
                worker = max(workers, key=lambda worker: len(running(worker)))
                worker.executor.end(running(worker)[0][1])
                await comes_true(quiet)
        for worker in workers:
            assert worker.executor.most <= 2
            for _, stream in running(worker):
                worker.executor.end(stream)
        answered = Counter(frame.stream for frame in controller.seen(End))
        assert set(answered.values()) <= {1}


async def test_a_full_worker_leaves_its_other_models_requests_to_whoever_is_free(
    controller: Granting, broker_url: str
) -> None:
    async with (
        announced_worker(controller, broker_url, HandExecutor(), models=MODELS, slots=1) as full,
        announced_worker(controller, broker_url, HandExecutor(), models=("n",), slots=1, name="w2") as other,
    ):
        await controller.submit("m")
        await full.executor.next()
        for _ in range(2):
            # The broker deals in turns, so one of the two meets the full worker first.
            generate = await controller.submit("n")
            await eventually(lambda: len(controller.frames) > 1, WITHIN)
            await controller.grant_all()
            assignment, stream = await other.executor.next()
            assert assignment.generate == generate
            stream.end()
            stream.released()
        assert len(full.executor.started) == 1


async def test_a_stream_that_moves_comes_before_those_that_wait(controller: Granting, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker:
        await controller.submit()
        _, stream = await worker.executor.next()
        for _ in range(5):
            await controller.submit()
        moved = await controller.submit(key=controller.topology.resume_queue("m").routing_key, ask_first=True)

        async def all_lie_in_their_queues() -> bool:
            return await controller.waiting_everywhere("w1", models=("m",)) == 6

        await comes_true(all_lie_in_their_queues)
        stream.end()
        stream.released()
        ask = await controller.frame(Ask)
        assert ask.stream == moved.stream
        await controller.grant_all()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == moved


async def test_two_loaded_models_have_their_turns(controller: Granting, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), models=MODELS, slots=1) as worker:
        for model in MODELS:
            for _ in range(10):
                await controller.submit(model)

        async def started() -> bool:
            await controller.grant_all()
            return not worker.executor.idle

        order = []
        for _ in range(12):
            await comes_true(started)
            assignment, stream = await worker.executor.next()
            order.append(assignment.generate.model)
            stream.end()
            stream.released()
        assert set(order[:2]) == set(MODELS)
        assert 5 <= order.count("m") <= 7


async def test_two_loaded_models_give_nothing_back_and_their_consumers_do_not_come_and_go(
    controller: Granting, broker_url: str
) -> None:
    """Per request there is one question to the broker; a request that came back would have to ask first."""
    async with announced_worker(controller, broker_url, HandExecutor(), models=MODELS, slots=2) as worker:
        for model in MODELS * 30:
            await controller.submit(model)
        channel = worker.session._intake._channel
        assert channel is not None

        async def one_more_ends() -> None:
            _, stream = await worker.executor.next()
            stream.end()
            stream.released()

        async def next_is_there() -> bool:
            await controller.grant_all()
            return not worker.executor.idle

        for _ in range(10):
            await comes_true(next_is_there)
            await one_more_ends()
        asks, made = len(controller.seen(Ask)), channel._consumers_made
        for _ in range(40):
            await comes_true(next_is_there)
            await one_more_ends()
        assert len(controller.seen(Ask)) == asks
        assert channel._consumers_made == made
        for _ in range(10):
            await comes_true(next_is_there)
            await one_more_ends()
        await eventually(lambda: len(controller.seen(End)) == 60, WITHIN)
        # The queues are empty, and whatever comes next finds the worker.
        for model in MODELS:
            await controller.submit(model)
            await comes_true(next_is_there)
            await one_more_ends()


async def test_what_waits_for_a_full_worker_does_not_expire_with_its_queue(
    controller: Granting, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queues have no consumer while it is full, and a request may run for longer than such a queue lives."""
    monkeypatch.setattr("broker_wire.topology.MODEL_QUEUE_EXPIRES", 2.0)
    monkeypatch.setattr("workers_shim.session.KEEP_INTERVAL", 0.5)
    loop = asyncio.get_running_loop()
    async with announced_worker(controller, broker_url, HandExecutor(), models=MODELS, slots=1) as worker:
        await controller.submit("m")
        _, stream = await worker.executor.next()
        for model in MODELS:
            await controller.submit(model)
        began = loop.time()
        await eventually(lambda: loop.time() - began > 5.0, WITHIN)
        stream.end()
        stream.released()

        async def next_is_there() -> bool:
            await controller.grant_all()
            return not worker.executor.idle

        for _ in MODELS:
            await comes_true(next_is_there)
            _, stream = await worker.executor.next()
            stream.end()
            stream.released()
        await eventually(lambda: len(controller.seen(End)) == 3, WITHIN)


async def test_a_worker_of_one_model_consumes_once_however_many_requests_it_serves(
    controller: Granting, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, EchoExecutor(), slots=2) as worker:
        channel = worker.session._intake._channel
        assert channel is not None
        before = channel._consumers_made
        for _ in range(100):
            await controller.submit()
        await eventually(lambda: len(controller.seen(End)) == 100, WITHIN)
        assert channel._consumers_made == before
        assert controller.seen(Ask) == []


async def test_after_a_reconnect_a_worker_takes_no_more_than_its_running_originals_leave(
    controller: Granting, broker_url: str
) -> None:
    async with (
        Proxy(broker_url) as proxy,
        announced_worker(controller, proxy.url, HandExecutor(), slots=2) as worker,
    ):
        await controller.submit()
        _, original = await worker.executor.next()
        channel = worker.session._intake._channel
        proxy.cut()
        await eventually(lambda: worker.session._intake._channel not in (None, channel), WITHIN)
        for _ in range(3):
            await controller.submit()
        await worker.executor.next()
        await eventually(lambda: worker.session._intake.pool.free == 0, WITHIN)
        assert worker.executor.idle
        original.end()
        original.released()
        await worker.executor.next()
