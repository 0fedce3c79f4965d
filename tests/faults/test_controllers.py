"""A controller is killed, or leaves in order: the others serve on, and no worker keeps a slot for who is gone."""

import asyncio
import time

from tests.faults.balancer import Balancer
from tests.faults.conftest import Record
from tests.faults.history import all_complete
from tests.faults.load import ARRIVING
from tests.faults.scene import AN_HOUR_OF_TOKENS, MID_STREAM, TOKENS, Scene

AT_THE_OTHER = "at another controller"
OFTEN = 0.02
"""Seconds between two requests, so that some come while a controller closes its port."""
SHORT_ANSWER = 2
"""Tokens."""
SLOTS_FREE_WITHIN = 30.0
"""Seconds, generously, after the workers' time of grace."""


async def test_killed_beside_another(scene: Scene, record: Record) -> None:
    """Every slot is taken by requests that would run for an hour, and more of them wait."""
    await asyncio.to_thread(scene.start, "w1", "w2")
    await scene.bring(mid_stream=4, starting=4, queued=4, tokens=AN_HOUR_OF_TOKENS)
    other = await asyncio.to_thread(scene.fleet.controller, *scene.settings.controller_options())
    await asyncio.to_thread(other.wait_for_workers, "w1", "w2")
    waiting = [scene.load.send(other.url, AT_THE_OTHER, tokens=TOKENS).exchange for _ in range(4)]
    scene.fault()
    scene.kill_controller()
    scene.controller = other
    scene.let_clients_arrive()
    # The workers hold what they have for the time of grace, in which it may come back. Then come the ghosts of what
    # waited for it, before those of the other: each has its slot for a round trip.
    within = scene.settings.worker_grace + SLOTS_FREE_WITHIN
    await scene.load.until_each(AT_THE_OTHER, lambda exchange: exchange.chunks, within)
    print(f"the first slot was free after {min(each.chunks[0][0] for each in waiting) - scene.fault_at:.1f} s")
    exchanges = await scene.finish()
    record("controller kill -9, of two", exchanges, scene.fault_at)
    assert {exchange.group for exchange in exchanges} == {AT_THE_OTHER, ARRIVING}
    assert all_complete(exchanges)


async def test_a_killed_one_is_started_again_and_knows_the_fleet(scene: Scene, record: Record) -> None:
    await asyncio.to_thread(scene.start, "w1", "w2", "w3")
    scene.fault()
    scene.controller.process.kill()
    await asyncio.to_thread(scene.start_controller)
    ready = time.monotonic()
    await asyncio.to_thread(scene.controller.wait_for_workers, "w1", "w2", "w3")
    print(f"ready after {ready - scene.fault_at:.1f} s, all workers known {time.monotonic() - ready:.2f} s later")
    await scene.bring(mid_stream=4)
    exchanges = await scene.finish()
    record("controller kill -9, started again", exchanges, scene.fault_at)
    assert all_complete(exchanges)


async def test_a_rolling_restart_of_two_behind_one_address_fails_no_request(scene: Scene, record: Record) -> None:
    await asyncio.to_thread(scene.start, "w1", "w2", slots=16)
    other = await asyncio.to_thread(scene.fleet.controller, *scene.settings.controller_options())
    await asyncio.to_thread(other.wait_for_workers, "w1", "w2")
    rolling = [scene.controller, other]
    async with Balancer(*(controller.url for controller in rolling)) as balancer:
        scene.fault()
        scene.load.begin_arrivals(balancer.url, OFTEN, SHORT_ANSWER)
        for index in range(2):
            for _ in range(8):
                scene.load.send(balancer.url, MID_STREAM)
            await scene.load.until_each(MID_STREAM, lambda exchange: exchange.chunks)
            leaving = rolling[index].process
            leaving.terminate()
            assert await asyncio.to_thread(leaving.wait) == 0
            rolling[index] = await asyncio.to_thread(scene.fleet.controller, *scene.settings.controller_options())
            await asyncio.to_thread(rolling[index].wait_for_workers, "w1", "w2")
            balancer.backends = [controller.url for controller in rolling]
        scene.controller = rolling[0]
        exchanges = await scene.finish()
    record("rolling restart of two controllers", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert all(len(exchange.starts) == 1 for exchange in exchanges)
