"""A worker dies or leaves: its streams go on elsewhere, each exactly once, and nobody else notices."""

import asyncio
import re
import time

import pytest

from tests.faults.client import Protocol
from tests.faults.conftest import Record
from tests.faults.history import Exchange, all_complete, of_group
from tests.faults.scene import MID_STREAM, QUEUED, STARTING, TOKENS, Scene
from tests.faults.settings import cases
from tests.waiting import eventually
from workers_shim.departure import SAME_TIME

# --- it dies


async def test_killed_with_a_free_slot_elsewhere(scene: Scene, record: Record) -> None:
    await scene.one_works_and_another_is_free()
    scene.fault()
    scene.workers["w1"].kill()
    exchanges = await scene.finish()
    record("worker kill -9, free slots", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert [exchange.workers for exchange in exchanges] == [["w1", "w2"]] * 4
    # By the broker's redelivery, and not when the time of grace is over.
    assert max(exchange.starts[1][0] for exchange in exchanges) - scene.fault_at < scene.settings.controller_grace


async def test_killed_while_every_slot_is_taken(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2")
    await scene.bring(mid_stream=4, starting=4, queued=4)
    disturbed = scene.running_at("w1")
    scene.fault()
    scene.workers["w1"].kill()
    exchanges = await scene.finish()
    record("worker kill -9, full fleet", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert disturbed
    assert all(exchange.workers == ["w1", "w2"] for exchange in disturbed)
    # What has begun does not wait behind what has not.
    resumed = max(exchange.starts[-1] for exchange in disturbed)
    assert resumed < max(exchange.starts[0] for exchange in of_group(exchanges, QUEUED))


async def test_killed_under_answers_of_every_protocol(scene: Scene, record: Record) -> None:
    scene.start("w1", slots=len(Protocol))
    for protocol in Protocol:
        scene.load.send(scene.controller.url, protocol.name, tokens=TOKENS, protocol=protocol)
    await eventually(lambda: all(has_some(exchange) for exchange in scene.load.exchanges))
    scene.start_worker("w2", slots=len(Protocol))
    await scene.until_ready("w1", "w2")
    scene.fault()
    scene.workers["w1"].kill()
    exchanges = await scene.finish()
    record("worker kill -9, by protocol", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert [exchange.workers for exchange in exchanges] == [["w1", "w2"]] * len(Protocol)


def has_some(exchange: Exchange) -> bool:
    """Of its answer; of one that comes as a whole it cannot be seen, and a second is enough for some."""
    return bool(exchange.chunks) or time.monotonic() - exchange.sent_at > 1.0


@pytest.mark.parametrize("resume", ["replay", "never"])
async def test_killed_when_its_engine_cannot_go_on_from_a_prefix(scene: Scene, record: Record, resume: str) -> None:
    await scene.one_works_and_another_is_free("--resume", resume)
    scene.fault()
    scene.workers["w1"].kill()
    exchanges = await scene.finish()
    record(f"worker kill -9, resume {resume}", exchanges, scene.fault_at)
    begun = of_group(exchanges, MID_STREAM)
    if resume == "replay":
        assert all_complete(exchanges)
    else:
        assert all_complete(of_group(exchanges, STARTING))
        assert [exchange.error["code"] for exchange in begun] == ["worker_lost"] * 2
    assert [exchange.workers for exchange in of_group(exchanges, STARTING)] == [["w1", "w2"]] * 2


@pytest.mark.parametrize("controllers", cases([1, 2], short=[2]))
async def test_one_poison_among_ten(scene: Scene, record: Record, controllers: int) -> None:
    names = ("w1", "w2", "w3")
    scene.start(*names)
    urls = [scene.controller.url]
    if controllers == 2:
        other = await asyncio.to_thread(scene.fleet.controller, *scene.settings.controller_options())
        await asyncio.to_thread(other.wait_for_workers, *names)
        urls.append(other.url)
    scene.fault()
    poison = scene.send("poison", "poison:8").exchange
    for number in range(9):
        scene.load.send(urls[number % controllers], "beside it", tokens=TOKENS)

    def over() -> bool:
        for name in names:
            if scene.workers[name].returncode is not None:
                scene.start_worker(name)
        return poison.ended_at is not None

    await eventually(over, within=60)
    exchanges = await scene.finish()
    record(f"a poison among ten, {controllers} controller(s)", exchanges, scene.fault_at)
    assert [error["code"] for error in poison.errors] == ["killed_workers"]
    died = re.search(r"workers (\w+), (\w+), (\w+) died", str(poison.error["message"]))
    assert died is not None
    # In the order in which they ran it; not all that ran it are charged, and the last one may live.
    ran = iter(poison.workers)
    assert all(name in ran for name in died.groups()), (died.groups(), poison.workers)
    beside = of_group(exchanges, "beside it")
    assert (len(beside), all_complete(beside)) == (9, True)


# --- it leaves


async def test_drained(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2", slots=3)
    await scene.bring(mid_stream=4, starting=2, queued=3)
    running = scene.running_at("w1")
    scene.fault()
    scene.workers["w1"].terminate()
    exchanges = await scene.finish()
    record("worker SIGTERM", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert running
    assert all(exchange.workers == ["w1"] for exchange in running)
    assert all(exchange.workers == ["w2"] for exchange in of_group(exchanges, QUEUED))
    assert await asyncio.to_thread(scene.workers["w1"].wait) == 0


async def test_drained_past_its_time(scene: Scene, record: Record) -> None:
    await scene.one_works_and_another_is_free("--drain-timeout", "1")
    scene.fault()
    scene.workers["w1"].terminate()
    exchanges = await scene.finish()
    record("worker SIGTERM, past its drain timeout", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert [exchange.workers for exchange in exchanges] == [["w1", "w2"]] * 4
    assert await asyncio.to_thread(scene.workers["w1"].wait) == 0


async def test_the_newer_of_two_with_one_name_stays(scene: Scene, record: Record) -> None:
    scene.start("w1")
    await scene.bring(mid_stream=2, starting=2, queued=2)
    older = scene.workers["w1"]
    since = scene.ready_at
    # Two that come within that time are taken for simultaneous.
    await eventually(lambda: asyncio.get_running_loop().time() - since > SAME_TIME)
    scene.fault()
    newer = scene.start_worker("w1")
    exchanges = await scene.finish()
    record("two workers of one name", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert all(len(exchange.starts) == 1 for exchange in exchanges)
    assert await asyncio.to_thread(older.wait) == 78
    assert "name taken over by another instance, this one leaves" in older.output()
    assert newer.returncode is None
