"""What a channel does on a real broker: outcomes, consumers, order, and faults that stay where they are."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from broker_wire.amqp import Channel, Delivery, Outcome, declare_queues, declare_topology
from broker_wire.amqp import channel as channel_module
from broker_wire.errors import (
    ChannelClosedError,
    MessageTooLargeError,
    NotConnectedError,
    QueueFullError,
    UnroutableError,
)
from broker_wire.topology import Queue, QueueBounds, Topology
from tests.integration.amqp_harness import WAIT, Client, Proxy, connected
from tests.waiting import Eventually


@pytest.fixture
async def client(broker_url: str) -> AsyncIterator[Client]:
    async with connected(broker_url) as running:
        yield running


@pytest.fixture
async def queue(client: Client, prefix: str) -> AsyncIterator[Queue]:
    """A model's queue that holds two messages, and its exchange."""
    topology = Topology(prefix, QueueBounds(max_length=2))
    queue = topology.model_queue("m")
    await declare_topology(client.session, topology.exchanges())
    await declare_queues(client.session, [queue])
    yield queue
    channel = await client.session.channel()
    await channel.delete_queue(queue.name)


async def publish(channel: Channel, queue: Queue, body: bytes, **options: Any) -> None:
    await channel.publish_confirmed(queue.exchange, queue.routing_key, body, type="t", timeout=WAIT, **options)


async def test_a_message_arrives_with_everything_that_it_was_sent_with(client: Client, queue: Queue) -> None:
    channel = await client.session.channel(confirms=True)
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    await publish(
        channel,
        queue,
        b"body",
        mandatory=True,
        expiration=30.0,
        correlation_id="c",
        reply_to="r",
        message_id="m",
        headers={"traceparent": "00-1"},
        persistent=True,
    )
    tag = await channel.consume(queue.name, arrived.put_nowait)
    delivery = await asyncio.wait_for(arrived.get(), WAIT)
    assert (delivery.body, delivery.type, delivery.correlation_id, delivery.reply_to) == (b"body", "t", "c", "r")
    assert (delivery.message_id, delivery.headers) == ("m", {"traceparent": "00-1"})
    assert (delivery.exchange, delivery.routing_key, delivery.consumer_tag) == (queue.exchange, queue.routing_key, tag)
    assert delivery.content_type == "application/vnd.broker-controller.v1+msgpack"
    assert delivery.channel is channel
    assert not delivery.redelivered
    assert not delivery.dead_lettered


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 3_000_000])
async def test_a_body_of_any_size_arrives_whole(client: Client, queue: Queue, size: int) -> None:
    channel = await client.session.channel(confirms=True)
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    body = bytes(index % 251 for index in range(1000)) * (size // 1000 + 1)
    await publish(channel, queue, body[:size])
    await publish(channel, queue, b"next")
    await channel.consume(queue.name, arrived.put_nowait)
    assert (await asyncio.wait_for(arrived.get(), WAIT)).body == body[:size]
    assert (await asyncio.wait_for(arrived.get(), WAIT)).body == b"next"


async def test_a_mandatory_publish_without_a_queue_is_returned_and_its_neighbours_are_not(
    client: Client, queue: Queue
) -> None:
    channel = await client.session.channel(confirms=True)
    outcomes: dict[str, Outcome] = {}
    done = asyncio.Event()

    def note(key: str, outcome: Outcome) -> None:
        outcomes[key] = outcome
        if len(outcomes) == 4:
            done.set()

    # The same message id everywhere: what came back is told by the publish, not by what the caller calls it.
    for key in (queue.routing_key, "nowhere", queue.routing_key + " ", "optional"):
        channel.publish(
            queue.exchange,
            key,
            b"x",
            type="t",
            mandatory=key != "optional",
            message_id="same",
            on_outcome=lambda outcome, key=key: note(key, outcome),  # type: ignore[misc]
        )
    await asyncio.wait_for(done.wait(), WAIT)
    assert outcomes == {
        queue.routing_key: Outcome.CONFIRMED,
        "nowhere": Outcome.RETURNED,
        queue.routing_key + " ": Outcome.RETURNED,
        "optional": Outcome.CONFIRMED,
    }


async def test_an_unroutable_publish_raises_and_names_the_key(client: Client, queue: Queue) -> None:
    channel = await client.session.channel(confirms=True)
    with pytest.raises(UnroutableError, match="nowhere"):
        await channel.publish_confirmed(queue.exchange, "nowhere", b"x", type="t", timeout=WAIT, mandatory=True)


async def test_a_full_queue_refuses_the_publish(client: Client, queue: Queue) -> None:
    channel = await client.session.channel(confirms=True)
    await publish(channel, queue, b"1")
    await publish(channel, queue, b"2")
    with pytest.raises(QueueFullError):
        await publish(channel, queue, b"3")
    assert channel.unconfirmed_bytes == 0


async def test_an_unanswered_publish_is_lost_when_the_connection_is_cut(broker_url: str, prefix: str) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        channel = await client.session.channel(confirms=True)
        proxy.freeze()
        outcomes: list[Outcome] = []
        channel.publish("", prefix, b"x" * 100, type="t", on_outcome=outcomes.append)
        waiting = asyncio.create_task(channel.publish_confirmed("", prefix, b"x", type="t", timeout=WAIT))
        await asyncio.sleep(0)
        assert channel.unconfirmed_bytes > 101
        proxy.cut()
        with pytest.raises(NotConnectedError, match="lost"):
            await waiting
        assert outcomes == [Outcome.LOST]
        with pytest.raises(NotConnectedError):
            channel.publish("", prefix, b"x", type="t")


async def test_a_confirm_that_does_not_come_times_out(broker_url: str, prefix: str) -> None:
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        channel = await client.session.channel(confirms=True)
        proxy.freeze()
        with pytest.raises(TimeoutError):
            await channel.publish_confirmed("", prefix, b"x", type="t", timeout=0.05)
        proxy.thaw()


async def test_a_message_over_the_brokers_bound_is_refused_here_and_the_channel_lives(
    client: Client, queue: Queue
) -> None:
    channel = await client.session.channel(confirms=True)
    limit = 16 * 1024 * 1024 if client.session.server_version >= (4,) else 128 * 1024 * 1024
    with pytest.raises(MessageTooLargeError, match=str(limit)):
        channel.publish("", queue.name, bytes(limit + 1), type="t")
    await publish(channel, queue, b"small")


async def test_after_cancel_and_nack_the_message_does_not_come_back_to_us(client: Client, queue: Queue) -> None:
    """The intake's way to give back what it cannot start: order matters, even while other calls are unanswered."""
    sender = await client.session.channel(confirms=True)
    channel = await client.session.channel()
    arrived: list[Delivery] = []
    done = asyncio.Event()

    def give_back(delivery: Delivery) -> None:
        arrived.append(delivery)
        # Calls that the broker has not answered when the cancel is sent: pika's own channel would hold it back.
        pending.append(asyncio.create_task(channel.declare_queue(queue, passive=True)))
        asyncio.get_running_loop().call_soon(settle, delivery)

    def settle(delivery: Delivery) -> None:
        channel.cancel(delivery.consumer_tag)
        channel.nack(delivery.tag)
        done.set()

    for _ in range(50):
        pending: list[asyncio.Task[Any]] = []
        arrived.clear()
        done.clear()
        channel.consume_soon(queue.name, give_back, prefetch=1)
        await publish(sender, queue, b"x")
        await asyncio.wait_for(done.wait(), WAIT)
        await asyncio.gather(*pending)
        # Once the message is ready again and nobody consumes, it cannot come back any more.
        while (state := await channel.declare_queue(queue, passive=True)).ready != 1:
            assert len(arrived) == 1
        assert (len(arrived), state.consumers) == (1, 0)
        assert await channel.purge(queue.name) == 1


async def test_one_message_is_asked_for_and_answers_come_in_the_order_of_the_questions(
    client: Client, queue: Queue, eventually: Eventually
) -> None:
    channel = await client.session.channel(confirms=True)
    other = (await channel.declare_queue(Queue("", "", "", {}, exclusive=True))).name
    await publish(channel, queue, b"1")
    await publish(channel, queue, b"2")
    answers: list[tuple[str, Delivery | None]] = []

    def ask(name: str) -> None:
        channel.get_soon(name, lambda delivery: answers.append((name, delivery)), lambda: answers.append((name, None)))

    asked = [queue.name, other, queue.name, queue.name]
    for name in asked:
        ask(name)
    await eventually(lambda: len(answers) == len(asked))
    assert [name for name, _ in answers] == asked
    bodies = [None if delivery is None else delivery.body for _, delivery in answers]
    assert bodies == [b"1", None, b"2", None]
    first = answers[0][1]
    assert first is not None
    assert (first.exchange, first.routing_key, first.redelivered) == (queue.exchange, queue.routing_key, False)
    channel.nack(first.tag)
    ask(queue.name)
    await eventually(lambda: len(answers) == len(asked) + 1)
    again = answers[-1][1]
    assert again is not None
    assert (again.body, again.redelivered) == (b"1", True)


async def test_a_question_to_a_queue_that_is_not_there_closes_the_channel(
    client: Client, prefix: str, eventually: Eventually
) -> None:
    closed: list[ChannelClosedError] = []
    answers: list[object] = []
    channel = await client.session.channel(on_closed=closed.append)
    channel.get_soon(prefix, answers.append, lambda: answers.append(None))
    await eventually(lambda: [error.code for error in closed] == [404])
    assert answers == []
    with pytest.raises(NotConnectedError):
        channel.get_soon(prefix, answers.append, lambda: answers.append(None))


async def test_a_channel_whose_question_is_not_answered_is_given_up(
    broker_url: str, queue: Queue, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    closed: list[ChannelClosedError] = []
    answers: list[object] = []
    async with Proxy(broker_url) as proxy, connected(proxy.url) as client:
        channel = await client.session.channel(on_closed=closed.append)
        monkeypatch.setattr(channel_module, "RPC_TIMEOUT", 0.2)
        channel.get_soon(queue.name, answers.append, lambda: answers.append(None))
        await eventually(lambda: answers == [None])
        proxy.freeze()
        channel.get_soon(queue.name, answers.append, lambda: answers.append(None))
        await eventually(lambda: len(closed) == 1)
        assert "did not answer basic.get" in str(closed[0])
        assert answers == [None]
        proxy.thaw()


async def test_a_consumer_can_be_cancelled_at_once(client: Client, queue: Queue) -> None:
    """RabbitMQ 3.10 ends the connection with 541 when a cancel overtakes the answer to its consume."""
    channel = await client.session.channel()
    for _ in range(30):
        channel.cancel(channel.consume_soon(queue.name, lambda _: None, prefetch=1))
    assert (await channel.declare_queue(queue, passive=True)).consumers == 0
    assert client.lost == []


async def test_each_of_two_consumers_started_in_a_row_has_its_own_prefetch(
    client: Client, prefix: str, eventually: Eventually
) -> None:
    channel = await client.session.channel(confirms=True)
    names = [(await channel.declare_queue(Queue("", "", "", {}, exclusive=True))).name for _ in range(3)]
    counts = [0, 0, 0]

    def count(index: int) -> Callable[[Delivery], None]:
        def on_delivery(_: Delivery) -> None:
            counts[index] += 1

        return on_delivery

    waiting = asyncio.create_task(channel.consume(names[0], count(0), prefetch=4))
    await asyncio.sleep(0)
    channel.consume_soon(names[1], count(1), prefetch=1)
    channel.consume_soon(names[2], count(2), prefetch=2)
    await waiting
    for name in names:
        for _ in range(6):
            await channel.publish_confirmed("", name, b"x", type="t", timeout=WAIT)
    await eventually(lambda: counts == [4, 1, 2])
    ready = [(await channel.declare_queue(Queue(name, "", "", {}), passive=True)).ready for name in names]
    assert ready == [2, 5, 4]
    assert counts == [4, 1, 2]


async def test_a_consumer_whose_queue_is_deleted_is_told(client: Client, queue: Queue, eventually: Eventually) -> None:
    channel = await client.session.channel()
    cancelled: list[str] = []
    tag = await channel.consume(queue.name, lambda _: None, on_cancelled=cancelled.append)
    other = await client.session.channel()
    await other.delete_queue(queue.name)
    await eventually(lambda: cancelled == [tag])
    assert channel.open


async def test_a_consumer_that_we_cancel_is_not_told(client: Client, queue: Queue) -> None:
    channel = await client.session.channel()
    cancelled: list[str] = []
    tag = await channel.consume(queue.name, lambda _: None, on_cancelled=cancelled.append)
    await channel.cancel_and_wait(tag)
    assert (await channel.declare_queue(queue, passive=True)).consumers == 0
    channel.cancel(tag)
    assert cancelled == []


async def test_what_was_on_its_way_at_a_cancel_is_still_delivered_and_can_be_given_back(
    client: Client, queue: Queue, eventually: Eventually
) -> None:
    sender = await client.session.channel(confirms=True)
    await publish(sender, queue, b"1")
    await publish(sender, queue, b"2")
    channel = await client.session.channel()
    arrived: list[Delivery] = []

    def cancel_at_the_first(delivery: Delivery) -> None:
        arrived.append(delivery)
        channel.cancel(delivery.consumer_tag)

    channel.consume_soon(queue.name, cancel_at_the_first)
    await eventually(lambda: len(arrived) == 2)
    for delivery in arrived:
        channel.nack(delivery.tag)
    while (await channel.declare_queue(queue, passive=True)).ready != 2:
        assert len(arrived) == 2


async def test_a_rejected_message_goes_to_the_dead_letter_exchange(client: Client, prefix: str, queue: Queue) -> None:
    topology = Topology(prefix)
    own = topology.own_queue("w", "m")
    await declare_queues(client.session, [own])
    channel = await client.session.channel(confirms=True)
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    await channel.consume(own.name, lambda delivery: channel.reject(delivery.tag))
    await channel.consume(queue.name, arrived.put_nowait)
    await channel.publish_confirmed(own.exchange, own.routing_key, b"x", type="t", timeout=WAIT)
    delivery = await asyncio.wait_for(arrived.get(), WAIT)
    assert delivery.dead_lettered
    assert not delivery.redelivered
    await channel.delete_queue(own.name)


async def test_a_requeued_message_says_that_it_is_redelivered(client: Client, queue: Queue) -> None:
    channel = await client.session.channel(confirms=True)
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    await publish(channel, queue, b"x")
    await channel.consume(queue.name, arrived.put_nowait)
    first = await asyncio.wait_for(arrived.get(), WAIT)
    channel.nack(first.tag)
    second = await asyncio.wait_for(arrived.get(), WAIT)
    assert (first.redelivered, second.redelivered) == (False, True)
    channel.ack(second.tag)


async def test_a_callback_that_raises_is_logged_and_nothing_else_happens(
    client: Client, queue: Queue, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    channel = await client.session.channel(confirms=True)
    arrived: list[Delivery] = []

    def fail(delivery: Delivery) -> None:
        arrived.append(delivery)
        raise RuntimeError("a fault of the program")

    def fail_too(_: Outcome) -> None:
        raise RuntimeError("another fault")

    await channel.consume(queue.name, fail)
    channel.publish(queue.exchange, queue.routing_key, b"1", type="t", on_outcome=fail_too)
    channel.publish(queue.exchange, queue.routing_key, b"2", type="t", on_outcome=fail_too)
    await eventually(lambda: len(arrived) == 2 and channel.unconfirmed_bytes == 0)
    assert channel.open
    assert client.lost == []
    assert "a fault of the program" in caplog.text
    assert "another fault" in caplog.text


async def test_a_channel_closed_by_the_broker_fails_what_waits_and_leaves_the_connection(
    client: Client, prefix: str
) -> None:
    closed: list[ChannelClosedError] = []
    channel = await client.session.channel(confirms=True, on_closed=closed.append)
    outcomes: list[Outcome] = []
    missing = Queue(f"{prefix}.missing", "", "", {})
    calls = [asyncio.create_task(channel.declare_queue(missing, passive=True)) for _ in range(3)]
    await asyncio.sleep(0)
    channel.publish("", missing.name, b"x", type="t", on_outcome=outcomes.append)
    for call in calls:
        with pytest.raises(ChannelClosedError, match="404"):
            await call
    assert [error.code for error in closed] == [404]
    assert outcomes == [Outcome.LOST]
    assert not channel.open
    channel.ack(1)
    channel.nack(1)
    channel.reject(1)
    with pytest.raises(NotConnectedError, match="404"):
        channel.publish("", missing.name, b"x", type="t")
    for _ in range(3):
        with pytest.raises(ChannelClosedError, match="404") as refusal:
            await channel.declare_queue(missing)
    # It is one object each time; its traceback must not grow with the calls.
    assert len(refusal.traceback) < 8
    again = await client.session.channel()
    assert (await again.declare_queue(Queue("", "", "", {}, exclusive=True))).ready == 0
    assert client.lost == []


async def test_an_ack_of_an_unknown_delivery_closes_the_channel_with_406(
    client: Client, eventually: Eventually
) -> None:
    closed: list[ChannelClosedError] = []
    channel = await client.session.channel(on_closed=closed.append)
    channel.ack(99)
    await eventually(lambda: [error.code for error in closed] == [406])


async def test_closing_a_channel_tells_nobody_and_frees_its_number(client: Client) -> None:
    closed: list[ChannelClosedError] = []
    numbers = set()
    for _ in range(10):
        channel = await client.session.channel(on_closed=closed.append)
        numbers.add(channel.number)
        await channel.close()
        await channel.close()
    assert closed == []
    assert len(numbers) == 1


async def test_a_binding_can_be_taken_back(client: Client, queue: Queue) -> None:
    channel = await client.session.channel(confirms=True)
    await channel.unbind(queue.name, queue.exchange, queue.routing_key)
    with pytest.raises(UnroutableError):
        await publish(channel, queue, b"x", mandatory=True)
    await channel.bind(queue.name, queue.exchange, queue.routing_key)
    await publish(channel, queue, b"x", mandatory=True)
