"""An admin or the broker closes a connection or a channel, or deletes a queue: it is made anew, nothing is lost."""

import asyncio
import re

import pytest

from broker_controller.private_node import PrivateNode
from tests.faults.client import Protocol
from tests.faults.conftest import Record
from tests.faults.history import all_complete
from tests.faults.scene import MID_STREAM, QUEUED, STARTING, Scene
from tests.faults.settings import cases

ALL_QUEUES = {
    "model's": r"requests\t(\S+)\tmodel\.m",
    "moving streams'": r"requests\t(\S+)\tresume\.m",
    "worker's own": r"requests\t(\S+)\town\.",
    "pinned requests'": r"requests\t(\S+)\tpinned\.w1",
    "replies'": r"replies\t(\S+)\t",
    "fleet's": r"fleet\t(\S+)\t#",
    "orders'": r"control\t(\S+)\tall",
    "last will's": r"control\t(\S+)\twill\.",
}
"""Which queue, and how its binding is listed: exchange, queue, key."""
CONNECTIONS = [(whose, which) for which in ("publish", "consume") for whose in ("controller", "w1")]
ACK_LIMIT, SHIPPED_ACK_LIMIT, LOOK_INTERVAL = 3000, 1_800_000, 500
"""Milliseconds; as it is shipped the broker looks once a minute."""


async def every_state(scene: Scene) -> None:
    await scene.bring(mid_stream=4, starting=4, queued=4)
    scene.load.send(scene.controller.url, QUEUED, protocol=Protocol.LLAVA, worker="w1")
    await scene.until(lambda status: status["streams"]["waiting"] == 5)
    scene.let_clients_arrive()
    scene.fault()


async def nothing_is_lost(scene: Scene, record: Record, fault: str) -> None:
    exchanges = await scene.finish()
    record(fault, exchanges, scene.fault_at)
    assert all_complete(exchanges)
    # Both sides live, and what runs is not begun again. (Of what waits there may be two copies for a moment.)
    assert all(len(exchange.starts) == 1 for exchange in exchanges if exchange.group in (MID_STREAM, STARTING))
    assert {MID_STREAM, STARTING, QUEUED} < {exchange.group for exchange in exchanges}


async def test_every_connection_is_closed(broker_scene: Scene, record: Record) -> None:
    await asyncio.to_thread(broker_scene.start, "w1", "w2")
    await every_state(broker_scene)
    await asyncio.to_thread(broker_scene.node.rabbitmqctl, "close_all_connections", "by a test")
    await nothing_is_lost(broker_scene, record, "all connections closed by an admin")


@pytest.mark.parametrize(("whose", "which"), cases(CONNECTIONS, short=CONNECTIONS[2:]))
async def test_one_connection_is_closed(
    scene: Scene, record: Record, unharmed_node: PrivateNode, whose: str, which: str
) -> None:
    await asyncio.to_thread(scene.start, "w1", "w2")
    connections = await asyncio.to_thread(unharmed_node.rabbitmqctl, "list_connections", "pid", "client_properties")
    (pid,) = re.findall(rf'^(\S+)\t.*"connection_name","{whose}[^"]* {which}"', connections, re.MULTILINE)
    await every_state(scene)
    await asyncio.to_thread(unharmed_node.rabbitmqctl, "close_connection", pid, "by a test")
    program = "controller" if whose == "controller" else "worker"
    await nothing_is_lost(scene, record, f"{program}'s {which} connection closed by an admin")


@pytest.mark.parametrize("whose", cases(ALL_QUEUES, short=["replies'", "pinned requests'"]))
async def test_a_queue_is_deleted(
    scene: Scene, record: Record, unharmed_node: PrivateNode, prefix: str, whose: str
) -> None:
    await asyncio.to_thread(scene.start, "w1", "w2")
    columns = ("source_name", "destination_name", "routing_key")
    bindings = await asyncio.to_thread(unharmed_node.rabbitmqctl, "list_bindings", *columns)
    queue, *_ = re.findall(rf"^{prefix}\.{ALL_QUEUES[whose]}", bindings, re.MULTILINE)
    await every_state(scene)
    await asyncio.to_thread(unharmed_node.rabbitmqctl, "delete_queue", queue)
    await nothing_is_lost(scene, record, f"the {whose} queue deleted by an admin")


async def test_the_ack_limit_closes_channels(broker_scene: Scene, record: Record) -> None:
    scene = broker_scene

    def set_in_broker(name: str, milliseconds: int) -> None:
        scene.node.rabbitmqctl("eval", f"application:set_env(rabbit, {name}, {milliseconds}).")

    await asyncio.to_thread(set_in_broker, "channel_tick_interval", LOOK_INTERVAL)
    await asyncio.to_thread(set_in_broker, "consumer_timeout", ACK_LIMIT)
    await asyncio.to_thread(scene.start, "w1", "w2")
    # A channel has the limit that was set when it was opened, but asks anew when to look: the next ones are to live.
    await asyncio.to_thread(set_in_broker, "consumer_timeout", SHIPPED_ACK_LIMIT)
    await every_state(scene)
    await asyncio.to_thread(scene.workers["w1"].wait_for_output, "delivery acknowledgement on channel")
    await nothing_is_lost(scene, record, "channels closed by the broker's ack limit")
