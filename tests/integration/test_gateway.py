"""The controller's broker side against workers that are played by hand, on a real RabbitMQ."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker_controller.decisions import Limits
from broker_controller.errors import (
    BadRequestError,
    DeadlineError,
    EngineError,
    ModelNotFoundError,
    OverloadedError,
    QueueFullError,
    ServiceError,
    WorkerNotFoundError,
)
from broker_controller.request_sender import Submission
from broker_controller.service import ControllerService, ServiceConfig
from broker_controller.streams import GenerationStream, one_by_one
from broker_wire.messages import (
    Announce,
    Ask,
    Cancel,
    Done,
    End,
    Failed,
    FailureKind,
    Go,
    Goodbye,
    Heartbeat,
    Introduce,
    Load,
    Obituary,
    Operation,
    Pause,
    Piece,
    Refuse,
    Resend,
    Resume,
    RollCall,
    Started,
    Stop,
    Texts,
    Usage,
)
from broker_wire.topology import QueueBounds, Topology
from tests.integration.hand_worker import HandWorker
from tests.waiting import Eventually


@asynccontextmanager
async def running_service(url: str, topology: Topology, **config: object) -> AsyncIterator[ControllerService]:
    service = ControllerService(
        ServiceConfig(broker_url=url, prefix=topology.prefix, bounds=topology.bounds, **config)  # type: ignore[arg-type]
    )
    task = asyncio.create_task(service.run())
    try:
        await service.links.wait_up(15)
        yield service
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix)


@pytest.fixture
async def service(broker_url: str, topology: Topology) -> AsyncIterator[ControllerService]:
    async with running_service(broker_url, topology) as running:
        yield running


@pytest.fixture
async def worker(broker_url: str, topology: Topology) -> AsyncIterator[HandWorker]:
    async with HandWorker(broker_url, topology, "w1", "m") as hand:
        await hand.consume("model", "resume", "pinned", "own")
        hand.announce(first=True)
        yield hand


def submission(**changes: object) -> Submission:
    fields: dict[str, object] = {
        "model": "m",
        "operation": Operation.CHAT,
        "body": b'{"model": "m"}',
        "request_id": "r-1",
        "timeout": 30.0,
    }
    return Submission(**(fields | changes))  # type: ignore[arg-type]


async def read_all(stream: GenerationStream) -> list[str | Piece | End]:
    items: list[str | Piece | End] = []
    async with asyncio.timeout(15):
        while not stream.finished:
            await stream.wait()
            items += one_by_one(stream.take())
    return items


async def test_an_answer_streams_back_in_order(
    service: ControllerService, worker: HandWorker, eventually: Eventually
) -> None:
    stream = await service.gateway.submit(submission())
    request, delivery = await worker.take()
    assert request.body == b'{"model": "m"}'
    worker.reply(request.controller, Started(request.stream, 1, "w1", worker.instance))
    await eventually(lambda: stream.start is not None)
    assert stream.start is not None
    assert (stream.start.worker, stream.start.attempts) == ("w1", 1)
    end = End(request.stream, 1, 3, "stop", Usage(1, 3))
    worker.reply(request.controller, Texts(request.stream, 1, 0, ["a", "b"]))
    worker.reply(request.controller, Texts(request.stream, 1, 2, ["c"]), end)
    worker.ack(delivery)
    assert await read_all(stream) == ["a", "b", "c", end]
    done = await worker.told(Done)
    assert isinstance(done, Done)
    assert done.streams == (request.stream,)
    assert service.gateway.streams == {}
    assert service.gateway.status()["inflight_bytes"] == 0


async def test_a_model_that_nobody_ever_served_is_refused_at_once(service: ControllerService) -> None:
    stream = await service.gateway.submit(submission(model="nobody's"))
    with pytest.raises(ModelNotFoundError, match="nobody's"):
        await stream.wait(15)


async def test_a_model_is_not_asked_for_what_it_cannot_do(
    service: ControllerService, worker: HandWorker, eventually: Eventually
) -> None:
    await eventually(lambda: service.controller.list_models() == ["m"])
    with pytest.raises(BadRequestError, match="cannot do embedding, it can do chat, completion"):
        await service.gateway.submit(submission(operation=Operation.EMBEDDING))


async def test_a_full_queue_refuses(broker_url: str, prefix: str) -> None:
    topology = Topology(prefix, QueueBounds(max_length=1))
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as hand:
        hand.announce(first=True)
        await service.gateway.submit(submission())
        second = await service.gateway.submit(submission())
        with pytest.raises(QueueFullError):
            await second.wait(15)


async def test_more_bytes_than_may_be_held_are_refused(broker_url: str, topology: Topology) -> None:
    async with running_service(broker_url, topology, max_inflight_bytes=10) as service:
        with pytest.raises(OverloadedError):
            await service.gateway.submit(submission())


async def test_a_client_that_leaves_the_queue_is_remembered_by_all_workers(
    service: ControllerService, broker_url: str, topology: Topology
) -> None:
    async with HandWorker(broker_url, topology, "w1", "m") as hand:
        stream = await service.gateway.submit(submission())
        stream.cancel()
        cancel = await hand.told(Cancel)
        assert isinstance(cancel, Cancel)
        assert cancel.stream == stream.life.stream
        await hand.consume("model")
        request, _ = await hand.take()
        hand.reply(request.controller, Started(request.stream, 1, "w1", hand.instance))
        assert await hand.told(Stop) == Stop(request.controller, request.stream, 1)


async def test_a_client_that_leaves_stops_its_worker(
    service: ControllerService, worker: HandWorker, eventually: Eventually
) -> None:
    stream = await service.gateway.submit(submission())
    request, _ = await worker.take()
    worker.reply(request.controller, Started(request.stream, 1, "w1", worker.instance))
    await eventually(lambda: stream.start is not None)
    stream.cancel()
    assert await worker.told(Stop) == Stop(request.controller, request.stream, 1)


async def test_a_killed_workers_stream_goes_on_at_another_where_the_client_stopped_reading(
    service: ControllerService, broker_url: str, topology: Topology
) -> None:
    async with (
        HandWorker(broker_url, topology, "w1", "m") as first,
        HandWorker(broker_url, topology, "w2", "m") as second,
    ):
        first.announce(first=True)
        second.announce(first=True)
        await first.consume("model")
        stream = await service.gateway.submit(submission())
        request, _ = await first.take()
        first.reply(
            request.controller,
            Started(request.stream, 1, "w1", first.instance),
            Texts(request.stream, 1, 0, ["a", "b"]),
        )
        assert await stream.wait(15)
        await second.consume("model", "resume")
        await first.die()
        again, delivery = await second.take()
        assert delivery.redelivered
        second.reply(again.controller, Ask(again.stream, again.attempt, "w2", second.instance))
        go = await second.told(Go)
        assert go == Go(request.controller, request.stream, 2, 2, "ab")
        second.reply(again.controller, Texts(again.stream, 2, 2, ["c"]), End(again.stream, 2, 3))
        assert await read_all(stream) == ["a", "b", "c", End(again.stream, 2, 3)]
        assert stream.start is not None
        assert stream.start.attempts == 2


async def test_a_gap_is_repaired_and_nothing_comes_twice(service: ControllerService, worker: HandWorker) -> None:
    stream = await service.gateway.submit(submission())
    request, _ = await worker.take()
    worker.reply(request.controller, Started(request.stream, 1, "w1", worker.instance))
    worker.reply(request.controller, Texts(request.stream, 1, 2, ["c"]))
    assert await worker.told(Resend) == Resend(request.controller, ((request.stream, 1, 0),))
    worker.reply(
        request.controller, Texts(request.stream, 1, 0, ["a", "b", "c"]), Texts(request.stream, 1, 1, ["b", "c"])
    )
    worker.reply(request.controller, End(request.stream, 1, 3))
    assert (await read_all(stream))[:-1] == ["a", "b", "c"]


async def test_whoever_works_for_nobody_is_stopped(service: ControllerService, worker: HandWorker) -> None:
    controller = service.gateway.controller_id
    worker.reply(controller, Started(999, 1, "w1", worker.instance))
    assert await worker.told(Stop) == Stop(controller, 999, 1)
    worker.reply(controller, Ask(998, 3, "w1", worker.instance))
    assert await worker.told(Stop) == Stop(controller, 998, 3)
    worker.reply(controller, Texts(997, 1, 0, ["x"]))
    assert await worker.told(Stop) == Stop(controller, 997, 1)
    assert service.garbage.counts["replies"] == 1


async def test_a_deadline_ends_a_waiting_request(
    service: ControllerService, worker: HandWorker, eventually: Eventually
) -> None:
    stream = await service.gateway.submit(submission(timeout=3.0))
    await eventually(lambda: stream.life.accepted)
    with pytest.raises(DeadlineError, match="in the queue: its time of 3 s was up") as caught:
        await stream.wait(15)
    # Nothing has finished yet: whoever comes back at once would wait as long.
    assert caught.value.retry_after is not None
    assert 3 <= caught.value.retry_after < 15


async def test_the_deadline_is_no_engines_error_even_if_the_worker_notices_first(
    service: ControllerService, worker: HandWorker
) -> None:
    stream = await service.gateway.submit(submission())
    request, _ = await worker.take()
    worker.reply(
        request.controller,
        Started(request.stream, 1, "w1", worker.instance),
        Failed(request.stream, 1, 0, FailureKind.DEADLINE, "the time was up"),
    )
    with pytest.raises(DeadlineError, match="starting on worker"):
        await stream.wait(15)


async def test_what_was_on_its_way_when_the_client_left_is_no_garbage(
    service: ControllerService, worker: HandWorker, eventually: Eventually
) -> None:
    stream = await service.gateway.submit(submission())
    request, _ = await worker.take()
    worker.reply(request.controller, Started(request.stream, 1, "w1", worker.instance))
    await eventually(lambda: stream.start is not None)
    stream.cancel()
    assert await worker.told(Stop) == Stop(request.controller, request.stream, 1)
    worker.reply(request.controller, Texts(request.stream, 1, 0, ["late"]))
    assert await worker.told(Stop) == Stop(request.controller, request.stream, 1)
    assert service.garbage.counts["replies"] == 0


async def test_an_engines_error_reaches_the_client_after_the_text(
    service: ControllerService, worker: HandWorker
) -> None:
    stream = await service.gateway.submit(submission())
    request, _ = await worker.take()
    worker.reply(
        request.controller,
        Started(request.stream, 1, "w1", worker.instance),
        Texts(request.stream, 1, 0, ["a"]),
        Failed(request.stream, 1, 1, FailureKind.ENGINE, "CUDA out of memory"),
    )
    assert await stream.wait(15)
    assert stream.take() == ["a"]
    with pytest.raises(EngineError, match="CUDA out of memory"):
        await stream.wait(15)


async def test_a_slow_reader_holds_its_own_engine_only(service: ControllerService, worker: HandWorker) -> None:
    stream = await service.gateway.submit(submission())
    request, _ = await worker.take()
    worker.reply(request.controller, Started(request.stream, 1, "w1", worker.instance))
    worker.reply(request.controller, Texts(request.stream, 1, 0, ["x" * 300_000]))
    assert await worker.told(Pause) == Pause(request.controller, request.stream)
    assert stream.take() == ["x" * 300_000]
    assert await worker.told(Resume) == Resume(request.controller, request.stream)


async def test_a_pinned_request_reaches_that_worker_or_none(
    service: ControllerService, worker: HandWorker, eventually: Eventually
) -> None:
    await eventually(lambda: service.controller.list_models() == ["m"])
    await service.gateway.submit(submission(pinned_worker="w1"))
    request, delivery = await worker.take()
    assert request.pinned
    assert "pinned" in delivery.routing_key
    with pytest.raises(WorkerNotFoundError):
        await service.gateway.submit(submission(pinned_worker="w9"))


async def test_a_chosen_worker_without_room_leaves_its_request_to_the_model(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with (
        running_service(broker_url, topology, dispatch_method="shortest_queue") as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
    ):
        hand.announce(first=True)
        await eventually(lambda: service.controller.list_models() == ["m"])
        await hand.consume("model")
        await service.gateway.submit(submission())
        _, delivery = await hand.take()
        assert delivery.dead_lettered
        assert not delivery.redelivered


async def test_what_waits_in_a_models_queue_is_counted(
    service: ControllerService, broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with HandWorker(broker_url, topology, "w1", "m") as hand:
        hand.announce(first=True)
        for _ in range(3):
            await service.gateway.submit(submission())
        await eventually(lambda: service.queues.lengths == {"m": 3})


# --- the fleet


async def test_a_controller_that_starts_calls_the_roll_and_learns_the_fleet(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with HandWorker(broker_url, topology, "w1", "m") as hand, running_service(broker_url, topology) as service:
        await hand.told(RollCall)
        hand.announce()
        await eventually(lambda: service.controller.list_models() == ["m"])
        refresh = asyncio.create_task(service.fleet.roll_call(15))
        await hand.told(RollCall)
        hand.announce()
        await asyncio.wait_for(refresh, 10)


async def test_an_unknown_heartbeat_is_asked_who_it_is(service: ControllerService, worker: HandWorker) -> None:
    worker.say(Heartbeat("stranger", worker.instance, Load(1)))
    await worker.told(Introduce)


async def test_a_worker_whose_obituary_comes_and_that_lives_is_asked_who_it_is(
    service: ControllerService, worker: HandWorker
) -> None:
    worker.say(Obituary("w1", worker.instance))
    await worker.told(Introduce)


async def test_a_goodbye_and_an_obituary_are_known_at_once(
    service: ControllerService, broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with HandWorker(broker_url, topology, "w1", "m") as hand:
        hand.announce(first=True)
        await eventually(lambda: service.controller.list_models() == ["m"])
        hand.say(Goodbye("w1", hand.instance))
        await eventually(lambda: service.controller.list_models() == [])
        hand.announce()
        await hand.make_will()
        await eventually(lambda: service.controller.list_models() == ["m"])
        await hand.die()
        await eventually(lambda: service.controller.list_models() == [])
        assert service.controller.registry.get("w1") is not None


async def test_an_obituary_of_nobody_is_no_line_in_the_log(
    service: ControllerService, worker: HandWorker, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    await eventually(lambda: service.controller.list_models() == ["m"])
    worker.say(Obituary("ghost", "i-ghost"))
    worker.say(Obituary("w1", worker.instance))
    await eventually(lambda: "worker lost worker=w1" in caplog.text)
    assert "ghost" not in caplog.text


async def test_a_worker_of_another_major_version_is_told_and_shown(
    service: ControllerService, worker: HandWorker, eventually: Eventually
) -> None:
    await eventually(lambda: service.controller.list_models() == ["m"])
    worker.publish_as_version("2", Announce("w2", worker.instance, protocol="2.0"))
    refuse = await worker.told(Refuse)
    assert isinstance(refuse, Refuse)
    assert "2.0" in refuse.reason
    record = service.controller.registry.get("w2")
    assert record is not None
    assert not record.state.live
    assert service.controller.list_models() == ["m"]


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"\x80", b"\x81\xa1t\xa5batch", b"x" * 1_000])
async def test_garbage_is_counted_and_nothing_stops(
    service: ControllerService, worker: HandWorker, eventually: Eventually, body: bytes
) -> None:
    topology = service.links.topology
    worker.publish_bytes(topology.fleet, "announce.w1", body, "announce")
    worker.publish_bytes(topology.replies, service.gateway.controller_id, body, "batch")
    await eventually(lambda: {"fleet", "replies"} <= service.garbage.counts.keys())
    stream = await service.gateway.submit(submission())
    request, _ = await worker.take()
    worker.reply(
        request.controller, Started(request.stream, 1, "w1", worker.instance), End(request.stream, 1, 0, "stop")
    )
    assert await read_all(stream) == [End(request.stream, 1, 0, "stop")]


async def test_a_worker_that_comes_back_in_time_serves_who_waited_for_it(
    service: ControllerService, broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with HandWorker(broker_url, topology, "w1", "m") as former:
        former.announce(first=True)
        await eventually(lambda: service.controller.list_models() == ["m"])
        former.say(Goodbye("w1", former.instance))
        await eventually(lambda: service.controller.list_models() == [])
    stream = await service.gateway.submit(submission())
    # It was looked at, and nobody was there to take it.
    await eventually(lambda: stream.outlook is not None and stream.life.accepted)
    assert service.gateway.status()["waiting"] == 1
    async with HandWorker(broker_url, topology, "w1", "m") as returned:
        returned.announce(first=True)
        await returned.consume("model")
        request, delivery = await returned.take()
        end = End(request.stream, request.attempt, 1)
        returned.reply(
            request.controller,
            Started(request.stream, request.attempt, "w1", returned.instance),
            Texts(request.stream, request.attempt, 0, ["here"]),
            end,
        )
        returned.ack(delivery)
        assert await read_all(stream) == ["here", end]


async def test_nobody_waits_for_ever_for_a_model_whose_workers_have_left(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    limits = Limits(worker_wait=0.5)
    async with (
        running_service(broker_url, topology, limits=limits) as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
    ):
        hand.announce(first=True)
        await eventually(lambda: service.controller.list_models() == ["m"])
        hand.say(Goodbye("w1", hand.instance))
        began = time.monotonic()
        stream = await service.gateway.submit(submission())
        with pytest.raises(ServiceError, match="have left"):
            await stream.wait(15)
        assert time.monotonic() - began >= 0.5
