"""A cluster of three loses a node: who was connected to it goes to another one, and what it had goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from broker_wire.topology import QueueType, Topology
from tests.acceptance.fleet import Fleet
from tests.faults.cluster import Cluster
from tests.faults.conftest import Record
from tests.faults.history import all_complete, of_group
from tests.faults.scene import MID_STREAM, QUEUED, STARTING, Scene
from tests.faults.settings import DEFAULT, cases, settings_of_environment
from tests.processes import Processes

OF_CONTROLLER, OF_LEADER, OF_WORKER = range(3)
"""Which node is whose: the worker that comes first makes the queues, and their leader is where it is connected."""
ALL = {
    f"{queue_type}, node of the {whose}": (queue_type, node)
    for queue_type in QueueType
    for whose, node in (("controller", OF_CONTROLLER), ("queue's leader", OF_LEADER), ("worker", OF_WORKER))
}
PATIENCE = 30.0
"""Seconds that requests have, where the node of their queue stays down."""
LATE = "sent while it is down"
SHORT = ["classic, node of the worker", "quorum, node of the queue's leader"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster() as nodes:
        yield nodes


@pytest.fixture
async def cluster_scene(
    processes: Processes, cluster: Cluster, prefix: str, free_port: Callable[[], int], tmp_path: Path
) -> AsyncIterator[Scene]:
    """A controller at the first node, its workers at the others; every node is there again at the end."""
    node = cluster.nodes[OF_CONTROLLER]
    with httpx.Client(timeout=90) as client:
        fleet = Fleet(processes, cluster.urls(node), prefix, free_port, client)
        made = Scene(processes, fleet, node, prefix, *cluster.nodes[1:], journal=tmp_path)
        async with made.load:
            yield made


def leader_of(cluster: Cluster, queue: str) -> int:
    """On which of the nodes it is."""
    has_it = [queue in node.rabbitmqctl("list_queues", "--local", "name").splitlines() for node in cluster.nodes]
    return has_it.index(True)


@pytest.mark.parametrize("case", cases(ALL, short=SHORT))
async def test_a_node_is_killed(cluster: Cluster, cluster_scene: Scene, record: Record, prefix: str, case: str) -> None:
    queue_type, victim = ALL[case]
    scene, node = cluster_scene, cluster.nodes[victim]
    urls = [cluster.urls(cluster.nodes[number]) for number in (OF_LEADER, OF_WORKER)]
    options = ("--queue-type", queue_type)
    await asyncio.to_thread(scene.start, "w1", "w2", controller=options, worker=options, broker_urls=urls)
    assert await asyncio.to_thread(leader_of, cluster, Topology(prefix).model_queue("m").name) == OF_LEADER
    await scene.bring(mid_stream=4, starting=4, queued=4)
    scene.fault()
    await asyncio.to_thread(node.kill)
    try:
        if queue_type is QueueType.QUORUM or victim != OF_LEADER:
            await scene.load.until_all_ended()
            # Whoever has lost the node serves again.
            await scene.until(lambda status: [worker["free"] for worker in status["workers"]] == [4, 4])
    finally:
        await asyncio.to_thread(node.start)
    exchanges = await scene.finish()
    record(f"cluster, {case} killed", exchanges, scene.fault_at)
    assert all_complete(exchanges)


@pytest.mark.skipif(settings_of_environment() != DEFAULT, reason="it takes a minute and a half: make test-faults")
async def test_the_node_of_a_classic_queue_stays_down(
    cluster: Cluster, cluster_scene: Scene, record: Record, prefix: str
) -> None:
    scene, node = cluster_scene, cluster.nodes[OF_LEADER]
    urls = [cluster.urls(cluster.nodes[number]) for number in (OF_LEADER, OF_WORKER)]
    options = ("--request-timeout", f"{PATIENCE:g}")
    await asyncio.to_thread(scene.start, "w1", "w2", controller=options, broker_urls=urls)
    assert await asyncio.to_thread(leader_of, cluster, Topology(prefix).model_queue("m").name) == OF_LEADER
    await scene.bring(mid_stream=4, starting=4, queued=4)
    scene.fault()
    await asyncio.to_thread(node.kill)
    for _ in range(4):
        scene.send(LATE)
    try:
        ended = await scene.load.until_all_ended()
    finally:
        await asyncio.to_thread(node.start)
    await scene.finish()
    record("cluster, classic, node of the queue's leader killed for good", ended, scene.fault_at)
    # Who runs needs its queue no more; who waits does so until it is back, or his time is up.
    assert all_complete(of_group(ended, MID_STREAM, STARTING))
    assert [each.error["code"] for each in of_group(ended, QUEUED)] == ["deadline_exceeded"] * 4
    # Both workers still serve the model: nobody is told that there is none.
    late = of_group(ended, LATE)
    assert len(late) == 4
    assert {each.error["code"] for each in late if each.error} <= {"deadline_exceeded"}
