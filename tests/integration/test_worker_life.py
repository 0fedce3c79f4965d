"""A real worker's life: how it comes, what it says of itself, how it is found dead, and how it leaves."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pika
import pytest
from msgspec import structs

from broker_wire import codec
from broker_wire.amqp import Delivery
from broker_wire.amqp.connection import Connection, ConnectionState, Session
from broker_wire.amqp.link import Link
from broker_wire.messages import (
    PROTOCOL_VERSION,
    Announce,
    Ask,
    Drain,
    End,
    Generate,
    Go,
    Goodbye,
    Heartbeat,
    Introduce,
    ModelCard,
    Obituary,
    Refuse,
    RollCall,
    Started,
    Stop,
    Texts,
    WorkerState,
)
from broker_wire.topology import MODEL_QUEUE_EXPIRES, Topology
from tests.integration.amqp_harness import Proxy
from tests.integration.worker_harness import (
    WITHIN,
    ControllerDouble,
    EchoExecutor,
    HandExecutor,
    announced_worker,
    comes_true,
    running_worker,
)
from tests.waiting import eventually
from workers_shim import session as session_module
from workers_shim.session import LeaveReason


@pytest.fixture
async def controller(broker_url: str, prefix: str) -> AsyncIterator[ControllerDouble]:
    async with ControllerDouble(broker_url, Topology(prefix)) as double:
        yield double


# --- coming


async def test_a_worker_says_who_it_is_and_claims_its_name_once(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=3, models=("m", "n")) as worker:
        announce = await controller.hears(Announce)
        assert announce.first
        assert (announce.worker, announce.instance, announce.slots) == ("w1", worker.instance, 3)
        assert [card.name for card in announce.models] == ["m", "n"]
        assert announce.load.free == 3
        assert announce.protocol == PROTOCOL_VERSION
        assert announce.made_queues == ("m", "n")
        await controller.tell(worker.instance, Introduce("c1"))
        again = await controller.hears(Announce, count=2)
        assert not again.first
        assert again.made_queues == ()


async def test_a_worker_takes_requests_whichever_of_its_connections_is_ready_while_the_other_one_is_nearly(
    controller: ControllerDouble, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consuming one has looked for a way out, found none, and is not yet called connected: then there is one."""
    prepare = Connection._run_on_connected
    looked, opened = asyncio.Event(), asyncio.Event()

    async def in_this_order(connection: Connection, session: Session, link: Link) -> None:
        mine, others = (opened, looked) if "publish" in connection.name else (looked, opened)
        if mine is opened:
            await others.wait()
        await prepare(connection, session, link)
        mine.set()
        await others.wait()

    monkeypatch.setattr(Connection, "_run_on_connected", in_this_order)
    async with announced_worker(controller, broker_url, EchoExecutor()):
        await controller.submit()
        await controller.frame(End)


async def test_every_worker_answers_a_roll_call_once(controller: ControllerDouble, broker_url: str) -> None:
    async with (
        announced_worker(controller, broker_url, HandExecutor()),
        announced_worker(controller, broker_url, HandExecutor(), name="w2"),
    ):
        controller.fleet.clear()
        for _ in range(3):
            await controller.control(controller.topology.all_workers_key, RollCall("c1"))
        await eventually(lambda: {a.worker for a in controller.said(Announce)} == {"w1", "w2"}, WITHIN)


async def test_a_worker_that_starts_before_the_broker_can_be_reached_comes_when_it_can(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with Proxy(broker_url) as proxy:
        proxy.refuse()
        async with running_worker(proxy.url, controller.topology, HandExecutor()) as worker:
            await eventually(lambda: worker.session._connections._consume.last_error, WITHIN)
            await proxy.listen()
            assert (await controller.hears(Announce)).first


async def test_heartbeats_tell_the_load_when_it_changes_and_else_from_time_to_time(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), heartbeat_interval=600.0) as worker:
        await controller.submit()
        _, stream = await worker.executor.next()
        beat = await controller.hears(Heartbeat)
        assert (beat.instance, beat.load.running, beat.load.free) == (worker.instance, 1, 1)
        stream.offer("a")
        stream.offer("b")
        stream.end()
        stream.released()
        await eventually(lambda: controller.said(Heartbeat)[-1].load.running == 0, WITHIN)
        assert controller.said(Heartbeat)[-1].requests_done == 1
    async with announced_worker(controller, broker_url, HandExecutor(), name="w2", heartbeat_interval=0.05):
        controller.fleet.clear()
        await controller.hears(Heartbeat, count=3)


# --- dying


async def test_the_broker_tells_of_a_worker_that_dies(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await eventually(lambda: worker.session._will.made, WITHIN)
        assert controller.said(Obituary) == []
        await asyncio.wait([worker.kill()])
        obituary = await controller.hears(Obituary)
        assert (obituary.worker, obituary.instance) == ("w1", worker.instance)
        assert controller.said(Goodbye) == []


async def test_the_will_is_renewed_time_and_again_without_an_obituary(
    controller: ControllerDouble, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "RENEW_INTERVAL", 0.2)
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await eventually(lambda: worker.session._will.made, WITHIN)
        former = worker.session._will._held
        await eventually(lambda: worker.session._will._held is not former, WITHIN)
        assert controller.said(Obituary) == []
        await asyncio.wait([worker.kill()])
        await controller.hears(Obituary)


async def test_a_worker_whose_connection_broke_has_a_will_again(controller: ControllerDouble, broker_url: str) -> None:
    async with (
        Proxy(broker_url) as proxy,
        announced_worker(controller, proxy.url, HandExecutor()) as worker,
    ):
        await eventually(lambda: worker.session._will.made, WITHIN)
        proxy.cut()
        await controller.hears(Obituary)
        await controller.hears(Announce, count=2)
        await eventually(lambda: worker.session._will.made, WITHIN)
        proxy.cut()
        await controller.hears(Obituary, count=2)


# --- leaving


@pytest.mark.parametrize("how", ["told by a controller", "told by its process"])
async def test_a_worker_that_drains_finishes_what_runs_takes_nothing_new_and_says_goodbye(
    controller: ControllerDouble, broker_url: str, how: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=2) as worker:
        await eventually(lambda: worker.session._will.made, WITHIN)
        await controller.submit()
        _, stream = await worker.executor.next()
        if how == "told by a controller":
            await controller.tell(worker.instance, Drain("c1"))
        else:
            worker.session.drain()
        await eventually(lambda: [b for b in controller.said(Heartbeat) if b.state is WorkerState.DRAINING], WITHIN)
        await controller.submit()
        stream.offer("all")
        stream.end()
        stream.released()
        assert await asyncio.wait_for(worker.task, WITHIN) is LeaveReason.DRAINED
        assert (await controller.hears(Goodbye)).instance == worker.instance
        assert controller.text(1) == "all"
        assert len(worker.executor.started) == 1
        assert await controller.waiting_requests() == 1
        assert controller.said(Obituary) == []


async def test_a_drain_that_takes_too_long_leaves_its_streams_to_others(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), drain_timeout=0.2) as worker:
        await controller.submit()
        _, stream = await worker.executor.next()
        worker.session.drain()
        assert await asyncio.wait_for(worker.task, WITHIN) is LeaveReason.DRAINED
        assert stream.cancelled
        async with announced_worker(controller, broker_url, HandExecutor(), name="w2"):
            assert (await controller.frame(Ask)).worker == "w2"


async def test_a_worker_that_drains_does_not_wait_for_an_engine_that_was_told_to_stop_and_does_not(
    controller: ControllerDouble, broker_url: str
) -> None:
    """Its stream went on elsewhere; the drain timeout is for requests that somebody waits for."""
    async with announced_worker(controller, broker_url, HandExecutor(), drain_timeout=600.0) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        await controller.tell(worker.instance, Stop("c1", generate.stream, 1))
        await eventually(lambda: stream.cancelled, WITHIN)
        worker.session.drain()
        assert await asyncio.wait_for(worker.task, WITHIN) is LeaveReason.DRAINED


async def test_an_engine_that_does_not_come_back_is_told_to_the_operator_once(
    controller: ControllerDouble, broker_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("workers_shim.custody.SLOT_LOST_AFTER", 0.0)
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        generate = await controller.submit()
        await worker.executor.next()
        await controller.tell(worker.instance, Stop("c1", generate.stream, 1))
        await eventually(lambda: "its slot stays taken" in caplog.text, WITHIN)
        for _ in range(3):
            worker.session._custody.sweep()
        (record,) = [record for record in caplog.records if "its slot stays taken" in record.getMessage()]
        assert generate.request_id in record.getMessage()
        assert worker.session._intake.pool.running == 1


async def test_a_worker_that_is_ended_leaves_at_once_and_its_streams_to_others(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await controller.submit()
        _, stream = await worker.executor.next()
        worker.session.drain()
        worker.session.end_now()
        assert await asyncio.wait_for(worker.task, WITHIN) is LeaveReason.ENDED
        assert stream.cancelled
        await controller.hears(Goodbye)
        async with announced_worker(controller, broker_url, HandExecutor(), name="w2"):
            assert (await controller.frame(Ask)).worker == "w2"


# --- names


async def test_a_newer_instance_takes_the_name_over_and_the_older_finishes_what_runs_and_leaves(
    controller: ControllerDouble, broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as older:
        await controller.submit()
        _, stream = await older.executor.next()
        older.session._announcer.first_sent_at = 0.0  # it has been there for long
        async with announced_worker(controller, broker_url, HandExecutor()) as newer:
            assert older.instance < newer.instance
            goodbye = await controller.hears(Goodbye)
            assert goodbye.instance == older.instance
            stream.offer("all")
            stream.end()
            stream.released()
            assert await asyncio.wait_for(older.task, WITHIN) is LeaveReason.TAKEN_OVER
            assert controller.text(1) == "all"
            assert not newer.task.done()
            assert controller.said(Goodbye) == [goodbye]
    assert "name taken over by another instance" in caplog.text
    assert "name given up by another instance" in caplog.text


async def test_of_two_that_claim_a_name_at_once_the_later_instance_stays(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with (
        running_worker(broker_url, controller.topology, HandExecutor()) as one,
        running_worker(broker_url, controller.topology, HandExecutor()) as other,
    ):
        assert one.instance < other.instance
        assert await asyncio.wait_for(one.task, WITHIN) is LeaveReason.TAKEN_OVER
        await eventually(lambda: not other.session._announcer._first, WITHIN)
        assert not other.task.done()


async def test_an_answer_to_a_roll_call_takes_no_name_over(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        worker.session._announcer.first_sent_at = 0.0
        announce = structs.replace(await controller.hears(Announce), instance="z", first=False)
        await controller.say(controller.topology.fleet, "first.w1", codec.encode(announce))
        await controller.tell(worker.instance, Introduce("c1"))
        await controller.hears(Announce, count=3)
        assert not worker.task.done()


async def test_one_that_drains_gives_its_name_up_at_once_and_finishes_what_runs(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as older:
        await controller.submit()
        _, stream = await older.executor.next()
        older.session.drain()
        await eventually(lambda: [b for b in controller.said(Heartbeat) if b.state is WorkerState.DRAINING], WITHIN)
        async with announced_worker(controller, broker_url, HandExecutor()) as newer:
            assert (await controller.hears(Goodbye)).instance == older.instance
            stream.offer("all")
            stream.end()
            stream.released()
            assert await asyncio.wait_for(older.task, WITHIN) is LeaveReason.DRAINED
            assert controller.text(1) == "all"
            claims = [each.instance for each in controller.said(Announce) if each.first]
            assert claims == [older.instance, newer.instance]
            assert controller.said(Obituary) == []


async def test_a_name_is_claimed_again_when_an_older_instance_has_not_heard_of_it(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        announce = structs.replace(await controller.hears(Announce), instance="0", first=False)
        await controller.say(controller.topology.fleet, "announce.w1", codec.encode(announce))
        # The controller hears the older one, too.
        await eventually(lambda: [each.first for each in controller.said(Announce)] == [True, False, True])
        assert not worker.task.done()


# --- models


async def test_a_live_worker_takes_a_model_in_and_lets_it_go(controller: ControllerDouble, broker_url: str) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await worker.session.add_model(ModelCard("n"))
        announce = await controller.hears(Announce, count=2)
        assert [card.name for card in announce.models] == ["m", "n"]
        assert announce.made_queues == ("n",)
        generate = await controller.submit("n")
        assignment, _ = await worker.executor.next()
        assert assignment.generate == generate
        await worker.session.remove_model("n")
        announce = await controller.hears(Announce, count=3)
        assert [card.name for card in announce.models] == ["m"]
        await controller.submit("n")
        assert await controller.waiting_requests("n") == 1
        assert worker.executor.idle


# --- faults


async def test_another_major_version_refuses_the_worker_and_it_says_so(
    controller: ControllerDouble, broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await controller.tell(worker.instance, Refuse("c1", "this controller speaks 2.0"))
        await eventually(lambda: "this controller speaks 2.0" in caplog.text, WITHIN)
        (record,) = [r for r in caplog.records if "this controller speaks 2.0" in r.getMessage()]
        assert record.levelno == logging.ERROR
        assert PROTOCOL_VERSION in record.getMessage()
        assert not worker.task.done()


async def test_a_controller_of_another_version_is_named_in_the_log_and_not_understood(
    controller: ControllerDouble, broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        properties = pika.BasicProperties(content_type=codec.CONTENT_TYPE.replace("v1", "v7"))

        def speak() -> None:
            with pika.BlockingConnection(pika.URLParameters(broker_url)) as connection:
                for _ in range(50):
                    body = codec.encode(Drain("c7"))
                    connection.channel().basic_publish(controller.topology.control, "all", body, properties)

        await asyncio.to_thread(speak)
        await eventually(lambda: worker.session.garbage.counts["control"] == 50, WITHIN)
        said = [record for record in caplog.records if "protocol version 7" in record.getMessage()]
        assert 1 <= len(said) < 50
        assert not worker.task.done()


GARBAGE = [b"", b"\xc1", b"\x00" * 1000, codec.encode({"t": "nonsense"}), codec.encode([1, 2]), b"\x93" * 5000]


async def test_garbage_on_every_way_in_is_dropped_and_counted_and_nothing_stops(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=2) as worker:
        topology = controller.topology
        ways = [
            *((topology.requests, key) for key in ("model.m", "resume.m", "pinned.w1")),
            (topology.requests, topology.own_queue("w1", "m").routing_key),
            *((topology.control, key) for key in ("all", "model.m", topology.instance_key(worker.instance))),
            (topology.fleet, "first.w1"),
            (topology.fleet, "goodbye.w1"),
        ]
        for exchange, key in ways:
            for body in GARBAGE:
                controller.channel.publish(exchange, key, body, type="x")
        bad_name = Generate("c" * 300, 1, 1, "r", "m", "completion", 60.0, b"")  # type: ignore[arg-type]
        await controller.send_request(bad_name)
        await controller.control(topology.all_workers_key, RollCall("c" * 300))
        counts = worker.session.garbage.counts
        await eventually(
            lambda: counts["requests"] == 4 * len(GARBAGE) + 1 and counts["control"] == 5 * len(GARBAGE) + 1, WITHIN
        )
        await controller.submit()
        _, stream = await worker.executor.next()
        stream.offer("fine")
        await controller.frame(Texts)
        assert worker.session._intake.pool.running == 1


async def test_a_request_channel_that_the_broker_closed_is_opened_again_and_nothing_is_lost(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor(), slots=2) as worker:
        generate = await controller.submit()
        _, stream = await worker.executor.next()
        await controller.frame(Started)
        channel = worker.session._intake._channel
        assert channel is not None
        # An unknown tag: the broker answers by closing the channel, 406, as for a delivery that was held too long.
        channel.ack(999)
        await eventually(lambda: [announce for announce in controller.said(Announce) if announce.requeued], WITHIN)
        assert worker.session._intake._channel not in (None, channel)
        stream.offer("all")
        stream.end()
        stream.released()
        await controller.frame(End)
        fresh = await controller.submit()
        assignment, _ = await worker.executor.next()
        assert assignment.generate == fresh
        assert controller.text(generate.stream) == "all"
        assert controller.said(Obituary) == []
        assert controller.seen(Ask) == []


async def test_a_queue_that_goes_while_its_connection_is_made_ready_is_looked_for_afterwards(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, EchoExecutor()) as worker:
        connections = worker.session._connections
        consume, repair = connections._consume, connections._repair
        tries, open_again = [0], repair._open_again

        async def counted() -> bool:
            tries[0] += 1
            return await open_again()

        repair._open_again = counted
        # As it is for a moment after everything has been opened.
        consume.state = ConnectionState.PREPARING
        await controller.channel.delete_queue(controller.topology.model_queue("m").name)
        await eventually(lambda: tries[0] > 0, WITHIN)
        consume.state = ConnectionState.CONNECTED
        await eventually(lambda: [a for a in controller.said(Announce)[1:] if a.made_queues == ("m",)], WITHIN)
        await controller.submit_when_there("model.m")
        await controller.frame(End)


async def test_queues_that_somebody_deleted_are_made_again_and_said_to_be_new(
    controller: ControllerDouble, broker_url: str
) -> None:
    executor = EchoExecutor()
    async with announced_worker(controller, broker_url, executor) as worker:
        topology = controller.topology
        for queue in (
            topology.model_queue("m"),
            topology.resume_queue("m"),
            topology.own_queue("w1", "m"),
            topology.pinned_queue("w1"),
        ):
            await controller.channel.delete_queue(queue.name)
        await eventually(lambda: [a for a in controller.said(Announce)[1:] if a.made_queues == ("m",)], WITHIN)
        for key in ("model.m", "resume.m", topology.own_queue("w1", "m").routing_key, "pinned.w1"):
            # The announce may have been before the last of them was there again.
            await controller.submit_when_there(key)

        async def all_ended() -> bool:
            # A queue that went while it was declared closes the channel: what it had delivered comes again, and asks.
            for ask in controller.seen(Ask):
                await controller.tell(ask.instance, Go("c1", ask.stream, ask.attempt + 1))
            return len({end.stream for end in controller.seen(End)}) == 4

        await comes_true(all_ended)
        assert not worker.task.done()


async def test_the_end_of_what_a_deleted_queue_had_delivered_takes_nothing_out_of_the_new_one(
    controller: ControllerDouble, broker_url: str
) -> None:
    """RabbitMQ settles by the queue's name and a number that each queue counts by itself."""
    executor = HandExecutor()
    async with announced_worker(controller, broker_url, executor, slots=2):
        streams = []
        for _ in range(2):
            await controller.submit()
            streams.append((await executor.next())[1])
        name = controller.topology.model_queue("m").name
        await controller.channel.delete_queue(name)
        await eventually(lambda: [a for a in controller.said(Announce)[1:] if a.made_queues == ("m",)], WITHIN)
        held: list[Delivery] = []
        tag = await controller.channel.consume(name, held.append, prefetch=2)
        await controller.submit()
        second = await controller.submit()
        await eventually(lambda: len(held) == 2, WITHIN)
        await controller.channel.cancel_and_wait(tag)
        for stream in streams:
            stream.end()
            stream.released()
        await eventually(lambda: len(controller.seen(End)) == 2, WITHIN)
        controller.channel.nack(held[1].tag)
        await eventually(lambda: [ask.stream for ask in controller.seen(Ask)] == [second.stream], WITHIN)


async def test_the_control_queue_and_the_will_are_made_again_when_somebody_deleted_them(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        await eventually(lambda: worker.session._will.made, WITHIN)
        will = controller.topology.will_queue("w1", worker.instance)
        await controller.channel.delete_queue(will.name)
        listening = worker.session._connections._control
        control, channel = listening._queue_name, listening._channel
        assert channel is not None
        await channel.delete_queue(control)
        await eventually(lambda: listening._queue_name != control, WITHIN)
        await eventually(lambda: worker.session._will.made, WITHIN)
        controller.fleet.clear()
        await controller.tell(worker.instance, Introduce("c1"))
        await controller.hears(Announce)
        await asyncio.wait([worker.kill()])
        await controller.hears(Obituary)


async def test_the_model_queues_of_a_worker_that_left_stay_for_a_while(
    controller: ControllerDouble, broker_url: str
) -> None:
    async with announced_worker(controller, broker_url, HandExecutor()) as worker:
        worker.session.drain()
        await asyncio.wait_for(worker.task, WITHIN)
    assert controller.topology.model_queue("m").arguments["x-expires"] == MODEL_QUEUE_EXPIRES * 1000
    generate = await controller.submit()
    async with announced_worker(controller, broker_url, HandExecutor()) as successor:
        assignment, _ = await successor.executor.next()
        assert assignment.generate == generate
        assert controller.said(Announce)[-1].made_queues == ()
