"""A controller is killed, or leaves in order: the others serve on, and no worker keeps a slot for who is gone."""

import asyncio

from tests.acceptance.fleet import RunningController
from tests.faults.conftest import Record
from tests.faults.history import Verdict, judge
from tests.faults.scene import MID_STREAM, QUEUED, TOKENS, Scene

AT_THE_OTHER = "at another controller"


async def test_killed_beside_another(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2", slots=8)
    doomed = await asyncio.to_thread(scene.fleet.controller)
    await asyncio.to_thread(doomed.wait_for_workers, "w1", "w2")
    of_the_doomed = [scene.load.send(doomed.url, "of the killed one", tokens=100 * TOKENS) for _ in range(4)]
    await scene.load.until_each("of the killed one", lambda exchange: exchange.chunks)
    for _ in range(4):
        scene.send(AT_THE_OTHER)
    await scene.load.until_each(AT_THE_OTHER, lambda exchange: exchange.chunks)
    scene.fault()
    for client in of_the_doomed:
        client.exchange.left = True  # nobody can say anything to them any more
    doomed.process.kill()
    # The workers hold what they have for 30 s, the time that a controller may take to come back.
    exchanges = await scene.finish()
    record("controller kill -9, of two", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)
    again = await asyncio.to_thread(scene.fleet.controller)
    await asyncio.to_thread(again.wait_for_workers, "w1", "w2")


async def test_a_rolling_restart_of_two_fails_no_request(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2", slots=8)
    rolling = [await asyncio.to_thread(scene.fleet.controller) for _ in range(2)]
    for controller in rolling:
        await asyncio.to_thread(controller.wait_for_workers, "w1", "w2")
    scene.fault()
    for index in range(2):
        for controller in rolling:
            for _ in range(4):
                scene.load.send(controller.url, MID_STREAM, tokens=TOKENS // 2)
        await scene.load.until_each(MID_STREAM, lambda exchange: exchange.chunks)
        leaving = rolling[index]
        leaving.process.terminate()
        await asyncio.to_thread(_wait_until_not_ready, leaving)
        for _ in range(4):
            scene.load.send(rolling[1 - index].url, QUEUED, tokens=TOKENS // 4)
        assert await asyncio.to_thread(leaving.process.wait, 60) == 0
        rolling[index] = await asyncio.to_thread(scene.fleet.controller)
        await asyncio.to_thread(rolling[index].wait_for_workers, "w1", "w2")
    exchanges = await scene.finish()
    record("rolling restart of two controllers", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)


def _wait_until_not_ready(controller: RunningController) -> None:
    controller.process.wait_for_output("leaving")
