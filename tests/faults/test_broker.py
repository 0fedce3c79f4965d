"""The broker goes, and comes back: what ran goes on from where it was, what waited is sent again."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker_controller.private_node import PrivateNode
from broker_wire.topology import Topology
from tests.acceptance.fleet import Fleet, echo_text
from tests.faults.conftest import Record
from tests.faults.history import Verdict, judge
from tests.faults.scene import Scene
from tests.waiting import eventually_sync

PROMPT = "the quick brown fox"
TOKENS = 120
GO_DOWN: dict[str, Callable[[PrivateNode], None]] = {"in order": PrivateNode.stop, "kill -9": PrivateNode.kill}


@pytest.mark.parametrize("how", GO_DOWN)
async def test_restarted(broker_scene: Scene, record: Record, how: str) -> None:
    scene, node = broker_scene, broker_scene.node
    scene.start("w1", "w2")
    await scene.bring(mid_stream=4, starting=4, queued=4)
    scene.fault()
    await asyncio.to_thread(GO_DOWN[how], node)
    await scene.until(lambda status: not status["broker"]["connected"])
    await asyncio.to_thread(node.start)
    exchanges = await scene.finish()
    record(f"broker restarted, {how}", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)


async def test_every_connection_is_closed_by_an_admin(broker_scene: Scene, record: Record) -> None:
    scene = broker_scene
    scene.start("w1", "w2")
    await scene.bring(mid_stream=4, starting=4, queued=4)
    scene.fault()
    await asyncio.to_thread(scene.node.rabbitmqctl, "close_all_connections", "by a test")
    exchanges = await scene.finish()
    record("connections closed by an admin", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)


async def test_the_models_queue_is_deleted_by_an_admin(broker_scene: Scene, record: Record) -> None:
    scene = broker_scene
    scene.start("w1", "w2")
    await scene.bring(mid_stream=4, starting=4, queued=4)
    scene.fault()
    await asyncio.to_thread(scene.node.rabbitmqctl, "delete_queue", Topology("bc").model_queue("m").name)
    exchanges = await scene.finish()
    record("model's queue deleted by an admin", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)


def test_an_alarm_refuses_new_requests_at_once_and_pauses_those_that_run(fleet: Fleet, node: PrivateNode) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--slots", "2", "--tokens-per-second", "20")
    controller.wait_for_workers("w1")
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(controller.generate, PROMPT, TOKENS)
        eventually_sync(lambda: controller.get("/status")["streams"]["running"] == 1)
        node.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1")
        # The first one finds out.
        refused = controller.chat(PROMPT, 3)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "broker_unavailable"
        assert "alarm" in refused.json()["error"]["message"]
        assert controller.generate(PROMPT, 3)["error_code"] == 3
        assert not answer.done()
        node.rabbitmqctl("set_vm_memory_high_watermark", "0.4")
        assert answer.result(90)["text"] == echo_text(PROMPT, TOKENS)
    assert controller.workers() == {"w1": "ready"}


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
