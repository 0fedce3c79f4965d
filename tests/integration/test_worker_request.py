"""One request on a real worker: from its delivery to its ack, and the words with its controller between."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec import structs

from broker_wire.messages import (
    Ask,
    Cancel,
    Done,
    End,
    Failed,
    FailureKind,
    Generate,
    GivenBack,
    Go,
    Gone,
    Pause,
    Resume,
    Started,
    Stop,
    Texts,
)
from broker_wire.topology import Topology
from tests.integration.worker_harness import (
    WITHIN,
    ControllerDouble,
    EchoExecutor,
    HandExecutor,
    announced_worker,
)
from tests.waiting import eventually
from workers_shim.request import Cancelled


@pytest.fixture
async def controller(broker_url: str, prefix: str) -> AsyncIterator[ControllerDouble]:
    async with ControllerDouble(broker_url, Topology(prefix)) as double:
        yield double


async def test_a_worker_says_started_before_it_begins_and_then_sends_every_chunk(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await controller.submit()
        assignment, stream = await worker.executor.next()
        started = await controller.frame(Started)
        assert assignment.generate == generate
        assert (started.worker, started.instance, started.attempt) == ("w1", worker.instance, 1)
        stream.offer("one ")
        stream.offer("two")
        stream.end("length")
        stream.released()
        end = await controller.frame(End)
        assert controller.text(generate.stream) == "one two"
        assert (end.seq, end.finish_reason) == (2, "length")
        assert isinstance(controller.frames[0], Started)
        assert controller.seen(Texts)[0].seq == 0


async def test_the_chunks_of_all_streams_in_one_tick_are_one_message(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=10) as worker:
        streams = []
        for _ in range(10):
            await controller.submit()
            streams.append((await worker.executor.next())[1])
        await eventually(lambda: len(controller.seen(Started)) == 10, WITHIN)
        before = len(controller.batches)
        # No await between these: they are one tick of the worker's loop, which is this test's.
        for _ in range(5):
            for stream in streams:
                stream.offer("word ")
        await eventually(lambda: len(controller.seen(Texts)) >= 10, WITHIN)
        assert len(controller.batches) == before + 1
        assert [len(frame.texts) for frame in controller.seen(Texts)] == [5] * 10


async def test_a_request_is_acked_only_when_the_last_frame_is_confirmed_and_the_engine_is_back(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker:
        await controller.submit()
        await controller.submit()
        _, stream = await worker.executor.next()
        stream.offer("all")
        stream.end()
        await controller.frame(End)
        assert worker.executor.idle, "a second request has the slot of an engine that has not come back"
        stream.released()
        await worker.executor.next()


async def test_a_worker_that_dies_before_its_ack_leaves_the_request_to_another_one_which_asks_first(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as first:
        generate = await controller.submit()
        _, stream = await first.executor.next()
        stream.offer("half")
        await controller.frame(Texts)
        async with announced_worker(controller, broker_url, HandExecutor(), name="w2") as second:
            await asyncio.wait([first.kill()])
            ask = await controller.frame(Ask)
            assert (ask.stream, ask.attempt, ask.instance) == (generate.stream, 1, second.instance)
            assert second.executor.idle
            await controller.tell(second.instance, Go("c1", generate.stream, 2, next_seq=1, text="half"))
            assignment, resumed = await second.executor.next()
            assert (assignment.attempt, assignment.next_seq, assignment.text) == (2, 1, "half")
            resumed.offer(" rest")
            frame = await controller.frame(Texts, count=2)
            assert (frame.attempt, frame.seq, frame.texts) == (2, 1, [" rest"])


async def test_a_request_that_may_have_begun_asks_although_it_is_fresh(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await controller.submit(ask_first=True, attempt=4)
        assert (await controller.frame(Ask)).attempt == 4
        assert worker.executor.idle


async def test_what_a_full_workers_own_queue_cannot_hold_goes_to_the_model_and_asks_there(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with (
        announced_worker(controller, broker_url, HandExecutor(), slots=1) as full,
        announced_worker(controller, broker_url, HandExecutor(), slots=1, name="w2") as other,
    ):
        own = controller.topology.own_queue("w1", "m").routing_key
        await controller.submit(key=own)
        await full.executor.next()
        generate = await controller.submit(key=own)
        ask = await controller.frame(Ask)
        assert (ask.stream, ask.worker) == (generate.stream, "w2")
        await controller.tell(other.instance, Go("c1", generate.stream, 2))
        await other.executor.next()


async def test_an_ask_that_is_answered_by_stop_frees_the_slot_and_the_request_is_gone(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker:
        generate = await controller.submit(ask_first=True)
        await controller.frame(Ask)
        await controller.tell(worker.instance, Stop("c1", generate.stream, 1))
        fresh = await controller.submit()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh
        assert await controller.waiting_requests() == 0


async def test_an_ask_without_an_answer_is_asked_again(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()):
        await controller.submit(ask_first=True)
        assert await controller.frame(Ask, count=2)


async def test_an_ask_of_a_controller_that_is_gone_is_dropped(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker:
        await controller.submit(ask_first=True, controller="nobody")
        fresh = await controller.submit()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh
        assert await controller.waiting_requests() == 0


async def test_a_started_of_a_controller_that_is_gone_gives_the_slot_back_at_once(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker:
        await controller.submit(controller="nobody")
        _, stream = await worker.executor.next()
        await eventually(lambda: stream.cancelled, WITHIN)
        stream.end()
        stream.released()
        fresh = await controller.submit()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh
        assert await controller.waiting_requests() == 0


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_a_running_stream_that_nobody_wants_stops_and_its_slot_is_free_when_the_engine_is_back(
    controller: ControllerDouble, broker_url: str, how: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        if how == "stop":
            await controller.tell(worker.instance, Stop("c1", generate.stream, 1))
        else:
            await controller.control(controller.topology.model_key("m"), Cancel("c1", generate.stream))
        await eventually(lambda: stream.cancelled, WITHIN)
        with pytest.raises(Cancelled):
            stream.offer("more")
        fresh = await controller.submit()
        assert worker.executor.idle
        stream.end()
        stream.released()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh
        assert controller.seen(End) == []
        assert await controller.waiting_requests() == 0


async def test_a_stop_of_an_older_attempt_leaves_the_newer_one_running(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await controller.submit(ask_first=True)
        await controller.frame(Ask)
        await controller.tell(worker.instance, Go("c1", generate.stream, 3))
        _, stream = await worker.executor.next()
        await controller.tell(worker.instance, Stop("c1", generate.stream, 2))
        await controller.tell(worker.instance, Pause("c1", generate.stream))
        await eventually(lambda: not stream.offer("x"), WITHIN)
        assert not stream.cancelled


async def test_a_request_that_was_cancelled_before_the_worker_met_it_is_dropped(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker:
        await controller.submit()
        _, running = await worker.executor.next()
        cancelled = await controller.submit()
        await controller.control(controller.topology.model_key("m"), Cancel("c1", cancelled.stream))
        fresh = await controller.submit()
        running.end()
        running.released()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh


@pytest.mark.parametrize("remaining", [0.0, -5.0, float("nan")])
async def test_a_request_whose_time_is_up_is_dropped(
    controller: ControllerDouble, broker_url: str, remaining: float
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker:
        await controller.submit(remaining=remaining)
        fresh = await controller.submit()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh


async def test_a_stream_whose_time_is_up_is_stopped(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await controller.submit(remaining=0.2)
        _, stream = await worker.executor.next()
        await eventually(lambda: stream.cancelled, WITHIN)


async def test_a_pinned_request_waits_for_its_worker_and_comes_before_others(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=1) as worker:
        await controller.submit()
        _, stream = await worker.executor.next()
        await controller.submit()
        pinned = await controller.submit(key=controller.topology.pinned_queue("w1").routing_key, pinned=True)
        await eventually(lambda: worker.session._intake.pool.waiting == 1, WITHIN)
        stream.end()
        stream.released()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == pinned


async def test_a_model_that_is_not_served_is_said_to_be_so(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await controller.submit("other", key=controller.topology.pinned_queue("w1").routing_key, pinned=True)
        failed = await controller.frame(Failed)
        assert failed.kind is FailureKind.NOT_SERVED
        assert worker.executor.idle


async def test_a_go_for_a_stream_that_is_not_held_is_answered_gone(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await controller.tell(worker.instance, Go("c1", 77, 3))
        gone = await controller.frame(Gone)
        assert (gone.stream, gone.attempt) == (77, 3)


async def test_a_newer_attempt_takes_the_place_of_the_one_that_runs(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await controller.submit()
        _, old = await worker.executor.next()
        await controller.send_request(structs.replace(generate, attempt=2))
        assignment, new = await worker.executor.next()
        assert assignment.attempt == 2
        assert old.cancelled
        old.end()
        old.released()
        new.offer("new")
        assert (await controller.frame(Texts)).attempt == 2


async def test_a_second_copy_of_the_attempt_that_runs_is_dropped(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=2) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        await controller.send_request(generate)
        fresh = await controller.submit()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh
        assert not stream.cancelled


async def test_of_two_that_must_run_apart_only_one_runs_at_a_time(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=3) as worker:
        generates: list[Generate] = []
        for count in (1, 2):
            generate = await controller.submit(ask_first=True)
            generates.append(generate)
            await controller.frame(Ask, generate.stream)
            await controller.tell(worker.instance, Go("c1", generate.stream, 1 + count, apart=60.0))
            if count == 1:
                assignment, stream = await worker.executor.next()
                assert assignment.suspect
        # It waits a moment, and is given to whoever else is there: here, to the same worker, which asks anew.
        assert await controller.frame(GivenBack, generates[1].stream) == GivenBack(generates[1].stream, 3)
        await controller.frame(Ask, generates[1].stream, count=2)
        assert worker.executor.idle
        stream.end()
        stream.released()
        await controller.tell(worker.instance, Go("c1", generates[1].stream, 9, apart=60.0))
        assignment, _ = await worker.executor.next()
        assert assignment.generate == generates[1]


async def test_what_must_run_apart_starts_when_the_others_time_is_over(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=3) as worker:
        for attempt in (2, 3):
            generate = await controller.submit(ask_first=True)
            await controller.frame(Ask, generate.stream)
            await controller.tell(worker.instance, Go("c1", generate.stream, attempt, apart=0.1))
        for _ in range(2):
            await worker.executor.next()


async def test_a_paused_stream_holds_its_engine_until_it_is_resumed(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        assert stream.offer("a")
        await controller.tell(worker.instance, Pause("c1", generate.stream))
        await eventually(lambda: not stream.wait_writable(0.0), WITHIN)
        await controller.tell(worker.instance, Resume("c1", generate.stream))
        await eventually(lambda: stream.wait_writable(0.0), WITHIN)


async def test_a_thousand_requests_are_each_answered_once_and_nothing_is_left(
    controller: ControllerDouble, broker_url: str
) -> None:
    executor = EchoExecutor()
    async with announced_worker(controller, broker_url, executor, slots=4) as worker:
        for _ in range(10):
            await asyncio.gather(*(controller.submit() for _ in range(100)))
        await eventually(lambda: len(controller.seen(End)) == 1000, WITHIN)
        assert {frame.stream: frame.texts for frame in controller.seen(Texts)} == {
            number: [f"body {number}"] for number in range(1, 1001)
        }
        assert len(executor.started) == 1000
        await controller.tell(worker.instance, Done("c1", tuple(range(1, 1001))))
        await eventually(lambda: worker.session._links.kept == 0 and worker.session._custody.empty, WITHIN)
        assert worker.session._intake.pool.free == 4
        assert await controller.waiting_requests() == 0
