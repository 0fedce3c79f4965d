"""The controller's broker side when something is lost on the way, against workers played by hand on a real RabbitMQ."""

import asyncio

import pytest

from broker_controller.decisions import Action, Limits
from broker_controller.errors import InternalError, WorkerNotFoundError
from broker_controller.lifecycle import RequestLife
from broker_controller.service import ControllerService
from broker_controller.watched_clock import SETTLE
from broker_wire.messages import (
    Announce,
    Ask,
    Done,
    End,
    Generate,
    Go,
    Goodbye,
    Operation,
    Pause,
    Progress,
    Started,
    Stop,
    Texts,
)
from broker_wire.topology import QueueBounds, Topology
from tests.integration.amqp_harness import Proxy
from tests.integration.hand_worker import HandWorker
from tests.integration.test_gateway import read_all, running_service, submission
from tests.waiting import Eventually


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix)


def filler(number: int) -> Generate:
    return Generate("another", number, 1, "r", "m", Operation.CHAT, 60.0, b"{}")


async def test_a_request_that_a_full_models_queue_dropped_is_sent_again(
    broker_url: str, prefix: str, eventually: Eventually
) -> None:
    topology = Topology(prefix, QueueBounds(max_length=1))
    async with (
        running_service(broker_url, topology, dispatch_method="shortest_queue") as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
    ):
        hand.announce(first=True)
        await eventually(lambda: service.controller.list_models() == ["m"])
        hand.publish(topology.requests, topology.model_key("m"), filler(1))
        await eventually(lambda: service.queues.lengths.get("m") == 1)
        stream = await service.gateway.submit(submission(request_id="r-2"))
        await eventually(lambda: stream.life.attempt == 2)
        await hand.consume("model")
        assert (await hand.take())[0].controller == "another"
        request, _ = await hand.take()
        assert (request.controller, request.attempt) == (service.controller_id, 2)


async def test_a_pinned_request_ends_soon_after_its_worker_has_left(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with (
        running_service(broker_url, topology, limits=Limits(grace=0.5)) as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
        HandWorker(broker_url, topology, "w2", "m") as other,
    ):
        hand.announce(first=True)
        other.announce(first=True)
        await eventually(lambda: len(service.controller.registry.workers()) == 2)
        stream = await service.gateway.submit(submission(pinned_worker="w1"))
        hand.say(Goodbye("w1", hand.instance))
        with pytest.raises(WorkerNotFoundError, match="'w1' has left"):
            await read_all(stream)


async def test_after_a_reconnect_a_stream_that_no_worker_holds_any_more_is_dispatched_again(
    broker_url: str, topology: Topology
) -> None:
    async with (
        Proxy(broker_url) as cable,
        running_service(cable.url, topology, limits=Limits(between_tokens=600, grace=0.5)) as service,
        HandWorker(broker_url, topology, "w1", "m") as dying,
        HandWorker(broker_url, topology, "w2", "m") as other,
    ):
        await dying.consume("model")
        stream = await service.gateway.submit(submission())
        request, delivery = await dying.take()
        dying.reply(request.controller, Started(request.stream, 1, "w1", dying.instance))
        dying.reply(request.controller, Texts(request.stream, 1, 0, ["a", "b"]))
        assert await stream.wait(15)
        # It leaves neither a copy nor an obituary: only its want of an answer can tell.
        dying.ack(delivery)
        await dying.die()
        other.announce(first=True)
        await other.consume("model", "resume")
        cable.cut()
        moved, _ = await other.take()
        assert (moved.stream, moved.attempt, moved.ask_first) == (request.stream, 2, True)
        other.reply(moved.controller, Ask(moved.stream, 2, "w2", other.instance))
        go = await other.told(Go)
        assert isinstance(go, Go)
        assert (go.next_seq, go.text) == (2, "ab")


async def test_a_worker_whose_id_cannot_be_a_routing_key_harms_nobody(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with (
        running_service(broker_url, topology, limits=Limits(first_token=0.5)) as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
    ):
        await hand.consume("model", "resume")
        hand.announce(first=True)
        stream = await service.gateway.submit(submission())
        request, _ = await hand.take()
        hand.reply(request.controller, Started(request.stream, 1, "w1", "i" * 300))
        await eventually(lambda: stream.start is not None)
        moved, _ = await hand.take()
        assert (moved.stream, moved.ask_first) == (request.stream, True)


async def test_an_answer_in_one_piece_may_take_longer_than_a_first_token(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with (
        running_service(broker_url, topology, limits=Limits(first_token=0.5)) as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
    ):
        await hand.consume("model", "resume")
        hand.announce(first=True, streams=False)
        await eventually(lambda: service.controller.list_models() == ["m"])
        stream = await service.gateway.submit(submission())
        request, _ = await hand.take()
        hand.reply(request.controller, Started(request.stream, 1, "w1", hand.instance))
        await eventually(lambda: stream.start is not None)
        assert not await stream.wait(2.5)
        hand.reply(request.controller, Texts(request.stream, 1, 0, ["all of it"]), End(request.stream, 1, 1))
        assert await read_all(stream) == ["all of it", End(request.stream, 1, 1)]
        assert stream.life.attempt == 1


async def test_a_worker_that_takes_a_slow_readers_stream_over_is_held_too(broker_url: str, topology: Topology) -> None:
    async with (
        running_service(broker_url, topology) as service,
        HandWorker(broker_url, topology, "w1", "m") as first,
        HandWorker(broker_url, topology, "w2", "m") as second,
    ):
        await first.consume("model")
        await service.gateway.submit(submission())
        request, _ = await first.take()
        await first.make_will()
        first.reply(
            request.controller,
            Started(request.stream, 1, "w1", first.instance),
            Texts(request.stream, 1, 0, ["x" * 100_000] * 3),
        )
        assert await first.told(Pause) == Pause(service.controller_id, request.stream)
        await second.consume("model")
        await first.die()
        moved, _ = await second.take()
        second.reply(moved.controller, Ask(moved.stream, moved.attempt, "w2", second.instance))
        go = await second.told(Go)
        assert isinstance(go, Go)
        assert go.next_seq == 3
        assert await second.told(Pause) == Pause(service.controller_id, request.stream)


async def test_a_worker_that_starts_a_slow_readers_stream_only_later_is_told_again(
    broker_url: str, topology: Topology
) -> None:
    async with (
        running_service(broker_url, topology) as service,
        HandWorker(broker_url, topology, "w1", "m") as first,
        HandWorker(broker_url, topology, "w2", "m") as second,
    ):
        await first.consume("model")
        await service.gateway.submit(submission())
        request, _ = await first.take()
        first.reply(
            request.controller,
            Started(request.stream, 1, "w1", first.instance),
            Texts(request.stream, 1, 0, ["x" * 100_000] * 3),
        )
        pause = Pause(service.controller_id, request.stream)
        assert await first.told(Pause) == pause
        second.reply(request.controller, Ask(request.stream, 1, "w2", second.instance))
        go = await second.told(Go)
        assert isinstance(go, Go)
        assert await second.told(Pause) == pause
        # It had to wait for another one that runs apart there, with nothing yet that could be paused.
        second.reply(request.controller, Started(request.stream, go.attempt, "w2", second.instance))
        assert await second.told(Pause) == pause


async def test_whoever_waits_for_chunks_hears_of_a_move_as_it_happens(broker_url: str, topology: Topology) -> None:
    async with (
        running_service(broker_url, topology) as service,
        HandWorker(broker_url, topology, "w1", "m") as first,
        HandWorker(broker_url, topology, "w2", "m") as second,
    ):
        await first.consume("model")
        stream = await service.gateway.submit(submission())
        request, _ = await first.take()
        await first.make_will()
        first.reply(
            request.controller,
            Started(request.stream, 1, "w1", first.instance),
            Texts(request.stream, 1, 0, ["a"]),
        )
        assert await stream.wait(15)
        assert stream.take() == ["a"]
        listening = asyncio.create_task(stream.wait())
        await first.die()
        assert await asyncio.wait_for(listening, 15) is False
        assert stream.life.is_without_worker
        listening = asyncio.create_task(stream.wait())
        await second.consume("model")
        moved, _ = await second.take()
        second.reply(moved.controller, Ask(moved.stream, moved.attempt, "w2", second.instance))
        assert await asyncio.wait_for(listening, 15) is False
        assert stream.start is not None
        assert (stream.start.worker, stream.start.attempts) == ("w2", 2)


async def test_frames_whose_started_was_lost_count_as_a_start(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with (
        running_service(broker_url, topology) as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
    ):
        await hand.consume("model")
        hand.announce(first=True)
        await eventually(lambda: service.controller.list_models() == ["m"])
        service.gateway.watched.stop()
        stream = await service.gateway.submit(submission())
        request, _ = await hand.take()
        hand.reply(request.controller, Texts(request.stream, 1, 0, ["a"]))
        await eventually(lambda: stream.start is not None)
        assert stream.start is not None
        assert stream.start.worker == "w1"
        assert stream.start.queue_seconds >= 0
        hand.reply(request.controller, End(request.stream, 1, 1))
        assert (await read_all(stream))[0] == "a"
        assert await hand.told(Done) == Done(service.controller_id, (request.stream,))


async def test_whoever_only_says_that_it_works_for_nobody_is_stopped(broker_url: str, topology: Topology) -> None:
    async with (
        running_service(broker_url, topology) as service,
        HandWorker(broker_url, topology, "w1", "m") as hand,
    ):
        hand.reply(service.controller_id, Progress(99, 1))
        assert await hand.told(Stop) == Stop(service.controller_id, 99, 1)


async def test_no_waiting_time_runs_while_one_connection_or_the_broker_is_in_trouble(
    broker_url: str, topology: Topology
) -> None:
    async with running_service(broker_url, topology) as service:
        links, watched = service.links, service.gateway.watched
        seconds = [0.0]
        watched._base = lambda: seconds[0]
        watched._stopped_for = 0.0

        def say_blocked(blocked: bool) -> None:
            links._publisher.blocked = blocked
            for tell in links.on_blocked:
                tell(blocked)

        say_blocked(True)
        for tell_up in links.on_both_up:
            tell_up()
        seconds[0] += SETTLE + 100
        assert watched() == 0
        say_blocked(False)
        seconds[0] += SETTLE + 1
        assert watched() == 1


async def test_a_bug_in_the_life_of_one_request_ends_no_other(
    broker_url: str, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as worker:
        await worker.consume("model")
        await end_one_by_a_bug(service, worker, monkeypatch)


@pytest.mark.parametrize("news", ["on_obituary", "on_announce"])
async def test_a_bug_in_the_life_of_one_request_hides_no_news_of_a_worker_from_the_others(
    broker_url: str, topology: Topology, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, news: str
) -> None:
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as worker:
        await worker.consume("model")
        broken, sound = [await service.gateway.submit(submission()) for _ in range(2)]
        for _ in range(2):
            request, _ = await worker.take()
            worker.reply(request.controller, Started(request.stream, 1, "w1", worker.instance))
        await eventually(lambda: broken.life.instance == sound.life.instance == worker.instance)
        break_method(monkeypatch, broken.life, news)
        service.gateway.on_worker_gone(worker.instance, in_order=False)
        assert sound.life.is_without_worker
        service.gateway.on_announce(Announce("w1", worker.instance))
        assert not sound.life.is_without_worker
        with pytest.raises(InternalError, match="has a bug"):
            await broken.wait(15)


def break_method(monkeypatch: pytest.MonkeyPatch, broken: RequestLife, name: str) -> None:
    """In the life of one request alone."""
    whole = getattr(RequestLife, name)

    def method(life: RequestLife, *arguments: object, **named: object) -> list[Action]:
        if life is broken:
            raise RuntimeError("a bug")
        actions: list[Action] = whole(life, *arguments, **named)
        return actions

    monkeypatch.setattr(RequestLife, name, method)


async def end_one_by_a_bug(service: ControllerService, worker: HandWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = await service.gateway.submit(submission())
    sound = await service.gateway.submit(submission())

    break_method(monkeypatch, broken.life, "sweep")
    with pytest.raises(InternalError, match="has a bug"):
        await broken.wait(15)
    numbers = []
    for _ in range(2):
        request, _ = await worker.take()
        numbers.append(request.stream)
        worker.reply(request.controller, Started(request.stream, 1, "w1", worker.instance))
        worker.reply(request.controller, End(request.stream, 1, 0))
    assert await read_all(sound) == [End(numbers[1], 1, 0)]


async def test_what_a_client_has_not_read_counts_until_it_has(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as worker:
        await worker.consume("model")
        stream = await service.gateway.submit(submission())
        request, _ = await worker.take()
        worker.reply(
            request.controller,
            Started(request.stream, 1, "w1", worker.instance),
            Texts(request.stream, 1, 0, ["x" * 1_000]),
            End(request.stream, 1, 1),
        )
        await eventually(lambda: not service.gateway.streams)
        assert service.gateway.status()["inflight_bytes"] == 1_000
        assert stream.take()[0] == "x" * 1_000
        await eventually(lambda: service.gateway.status()["inflight_bytes"] == 0)


async def test_a_queue_that_an_admin_deleted_loses_no_new_request(
    broker_url: str, topology: Topology, eventually: Eventually
) -> None:
    async with running_service(broker_url, topology) as service, HandWorker(broker_url, topology, "w1", "m") as worker:
        worker.announce(first=True)
        await eventually(lambda: service.controller.list_models() == ["m"])
        await worker.delete_queue("model")
        stream = await service.gateway.submit(submission())
        assert not await stream.wait(0.5)
        await worker.declare()
        await worker.consume("model")
        request, _ = await worker.take()
        assert request.request_id == stream.request_id
