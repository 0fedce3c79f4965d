"""The broker goes, and comes back: what ran goes on from where it was, what waited is sent again."""

import asyncio
import time
from collections.abc import Callable

import pytest

from broker_controller.private_node import PrivateNode
from tests.acceptance.fleet import Fleet
from tests.faults.conftest import Record
from tests.faults.history import all_complete
from tests.faults.load import ARRIVING
from tests.faults.scene import AN_HOUR_OF_TOKENS, MID_STREAM, STARTING, TOKENS, Scene
from tests.faults.settings import cases
from tests.waiting import eventually_sync

PROMPT = "the quick brown fox"
COMES_BACK_WITHIN = 60.0
"""Seconds, generously, for a worker to be connected again: it tries at least every 15."""
GO_DOWN: dict[str, Callable[[PrivateNode], None]] = {"in order": PrivateNode.stop, "kill -9": PrivateNode.kill}


@pytest.mark.parametrize("how", cases(GO_DOWN, short=["kill -9"]))
async def test_restarted(broker_scene: Scene, record: Record, how: str) -> None:
    scene, node = broker_scene, broker_scene.node
    scene.start("w1", "w2")
    await scene.bring(mid_stream=4, starting=4, queued=4)
    scene.fault()
    await asyncio.to_thread(GO_DOWN[how], node)
    await scene.until(lambda status: not status["broker"]["connected"])
    scene.let_clients_arrive()
    await asyncio.to_thread(node.start)
    exchanges = await scene.finish()
    record(f"broker restarted, {how}", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    # What ran is not begun again.
    assert all(len(exchange.starts) == 1 for exchange in exchanges if exchange.group in (MID_STREAM, STARTING))
    assert ARRIVING in {exchange.group for exchange in exchanges}


@pytest.mark.parametrize("how", cases(GO_DOWN, short=["kill -9"]))
async def test_restarted_with_its_controller(broker_scene: Scene, record: Record, how: str) -> None:
    scene, node = broker_scene, broker_scene.node
    scene.start("w1", "w2")
    await scene.bring(mid_stream=4, starting=4, queued=4, tokens=AN_HOUR_OF_TOKENS)
    scene.fault()
    await asyncio.to_thread(scene.kill_controller)
    await asyncio.to_thread(GO_DOWN[how], node)
    await asyncio.to_thread(node.start)
    await asyncio.to_thread(scene.start_controller)
    # Nobody is left to say go or stop: what was held for the controller that is gone ends with the time of grace.
    within = scene.settings.worker_grace + COMES_BACK_WITHIN
    await scene.until(lambda status: [worker["free"] for worker in status["workers"]] == [4, 4], within)
    print(f"all slots were free after {time.monotonic() - scene.fault_at:.1f} s")
    for _ in range(4):
        scene.send(ARRIVING, tokens=TOKENS // 4)
    exchanges = await scene.finish()
    record(f"broker and controller restarted, {how}", exchanges, scene.fault_at)
    assert all_complete(exchanges)


def test_without_its_controller_a_worker_stops_and_serves_the_next_one(fleet: Fleet) -> None:
    first = fleet.controller()
    fleet.worker("w1", "--tokens-per-second", "5", "--grace", "5")
    first.wait_for_workers("w1")
    stream = first.stream(PROMPT, 10_000)
    next(stream)
    first.process.kill()
    second = fleet.controller()
    second.wait_for_workers("w1")
    # Its one slot is free when the time of grace is over.
    assert second.chat(PROMPT, 2).status_code == 200


def test_a_worker_that_dies_while_the_broker_is_away_is_known_to_be_lost(fleet: Fleet, node: PrivateNode) -> None:
    controller = fleet.controller()
    dying = fleet.worker("w1")
    fleet.worker("w2")
    controller.wait_for_workers("w1", "w2")
    node.stop()
    dying.kill()
    node.start()
    eventually_sync(lambda: controller.workers() == {"w1": "lost", "w2": "ready"}, within=60)
