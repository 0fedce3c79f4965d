"""A worker dies, freezes, blocks, leaves: its streams go on elsewhere, each exactly once, and nobody else notices."""

import asyncio
import re
import signal
import time
from itertools import pairwise

import pytest

from tests.faults.conftest import Record
from tests.faults.engine import ENGINE_SAYS, expected
from tests.faults.history import Exchange, Verdict, judge
from tests.faults.load import Protocol
from tests.faults.report import has_moved
from tests.faults.scene import MID_STREAM, PACE, QUEUED, STARTING, TOKENS, Scene
from tests.waiting import eventually
from workers_shim.departure import SAME_TIME

RESUMED_WITHIN = 10.0
"""Seconds, generously, for streams of which a frozen worker takes up to its slots."""

NOTICED_WITHIN = 60.0
"""Seconds, generously; the broker notices a frozen worker by its heartbeats after about 40."""


def all_complete(exchanges: list[Exchange]) -> bool:
    return all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)


def of_group(exchanges: list[Exchange], group: str) -> list[Exchange]:
    return [exchange for exchange in exchanges if exchange.group == group]


async def one_works_and_another_is_free(scene: Scene, *worker: str) -> list[Exchange]:
    """All that runs is at w1: two mid-stream, two starting."""
    scene.start("w1", worker=worker)
    await scene.bring(mid_stream=2, starting=2)
    scene.start_worker("w2", 4, *worker)
    await scene.until(lambda status: [each["state"] for each in status["workers"]] == ["ready"] * 2)
    running = scene.running_at("w1")
    assert len(running) == 4
    return running


# --- it dies


async def test_killed_with_a_free_slot_elsewhere(scene: Scene, record: Record) -> None:
    await one_works_and_another_is_free(scene)
    scene.fault()
    scene.workers["w1"].kill()
    exchanges = await scene.finish()
    record("worker kill -9, free slots", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert [exchange.workers for exchange in exchanges] == [["w1", "w2"]] * 4


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
    await scene.until(lambda status: [each["state"] for each in status["workers"]] == ["ready"] * 2)
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
    await one_works_and_another_is_free(scene, "--resume", resume)
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


@pytest.mark.parametrize("controllers", [1, 2])
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
    record(f"a poison among ten, {controllers} controllers", exchanges, scene.fault_at)
    assert [error["code"] for error in poison.errors] == ["killed_workers"]
    died = re.search(r"workers (\w+), (\w+), (\w+) died", str(poison.error["message"]))
    assert died is not None
    # In the order in which they ran it; not all that ran it are charged, and the last one may live.
    ran = iter(poison.workers)
    assert all(name in ran for name in died.groups()), (died.groups(), poison.workers)
    beside = of_group(exchanges, "beside it")
    assert (len(beside), all_complete(beside)) == (9, True)


# --- it does not go on


async def test_frozen_and_woken_later(scene: Scene, record: Record) -> None:
    disturbed = await one_works_and_another_is_free(scene)
    scene.fault()
    scene.workers["w1"].signal(signal.SIGSTOP)
    limits = scene.settings.first_token_timeout + scene.settings.stall_timeout
    await eventually(lambda: all(len(scene.starts(each)) == 2 for each in disturbed), within=limits + 30)
    assert any(exchange.ended_at is None for exchange in disturbed)
    scene.workers["w1"].signal(signal.SIGCONT)
    exchanges = await scene.finish()
    record("worker SIGSTOP, woken later", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert [exchange.workers for exchange in exchanges] == [["w1", "w2"]] * 4
    # Frozen, it still consumes: what it is handed to resume does not wait for the broker to find out.
    assert max(exchange.starts[1][0] for exchange in exchanges) - scene.fault_at < limits + RESUMED_WITHIN
    await scene.until(lambda status: [each["state"] for each in status["workers"]] == ["ready"] * 2)


async def test_frozen_with_free_slots(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2")
    scene.workers["w1"].signal(signal.SIGSTOP)
    scene.fault()
    for _ in range(4):
        scene.send("new")
    # Their queue is empty, and nobody speaks of those that the frozen one was handed: they are sent again.
    await eventually(lambda: all(scene.starts(each) for each in scene.load.exchanges), within=NOTICED_WITHIN)
    assert {worker["state"] for worker in (await scene.status())["workers"]} == {"ready"}
    scene.workers["w1"].signal(signal.SIGCONT)
    exchanges = await scene.finish()
    record("worker SIGSTOP, new requests", exchanges, scene.fault_at)
    print(f"the last of them began after {max(each.starts[0][0] for each in exchanges) - scene.fault_at:.1f} s")
    assert all_complete(exchanges)
    # Woken, it may begin with one before it hears that it is not wanted.
    assert [exchange.workers[0] for exchange in exchanges] == ["w2"] * 4


@pytest.mark.parametrize(("state", "after"), [(STARTING, 0), (MID_STREAM, 5)])
async def test_an_engine_that_blocks_its_thread(scene: Scene, record: Record, state: str, after: int) -> None:
    limit = scene.settings.stall_timeout if after else scene.settings.first_token_timeout
    scene.start("w1")
    blocked = scene.send(state, f"block:{after}:{limit + 5}", tokens=20).exchange
    beside = [scene.send("beside it", tokens=int(PACE * (limit + 3))).exchange for _ in range(2)]
    await eventually(lambda: len(blocked.chunks) == after and all(scene.starts(each) for each in (blocked, *beside)))
    scene.fault()
    scene.start_worker("w2")
    exchanges = await scene.finish()
    record("engine blocks its thread", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert len(blocked.starts) == 2
    assert [exchange.workers for exchange in beside] == [["w1"]] * 2
    assert max(longest_pause(exchange) for exchange in beside) < limit


async def test_an_engine_that_never_comes_back(scene: Scene, record: Record) -> None:
    scene.start("w1", worker=("--drain-timeout", "1"))
    blocked = scene.send(MID_STREAM, "block:5:3600", tokens=20).exchange
    await eventually(lambda: len(blocked.chunks) == 5)
    scene.fault()
    scene.start_worker("w2")
    await eventually(lambda: blocked.ended_at is not None, within=scene.settings.stall_timeout + 30)
    # Its slot is gone, and no other.
    await scene.until(lambda status: {each["name"]: each["free"] for each in status["workers"]} == {"w1": 3, "w2": 4})
    scene.workers["w1"].terminate()
    exchanges = await scene.finish()
    record("engine deadlocks", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert len(blocked.starts) == 2
    assert await asyncio.to_thread(scene.workers["w1"].wait) == 0


def longest_pause(exchange: Exchange) -> float:
    return max(later - earlier for (earlier, _), (later, _) in pairwise(exchange.chunks))


# --- its engine fails


async def test_a_model_has_its_own_stall_timeout(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2", controller=("--stall-timeout", "60,m=2"))
    scene.fault()
    scene.send("blocked", "block:10:20")
    exchanges = await scene.finish()
    record("engine blocks, the model's own stall timeout", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert all(has_moved(exchange) for exchange in exchanges)


async def test_an_engine_that_raises(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2")
    await scene.bring(mid_stream=2)
    scene.fault()
    once = scene.send(STARTING, "raise-once:0", tokens=20).exchange
    always = scene.send(STARTING, "raise:0", tokens=20).exchange
    middle = scene.send(MID_STREAM, "raise:5", tokens=20).exchange
    refused = scene.send("refused", "refuse", tokens=20).exchange
    exchanges = await scene.finish()
    record("engine raises", exchanges, scene.fault_at)
    assert (judge(once), len(once.starts)) == (Verdict.COMPLETE, 2)
    for failed, tokens, attempts in ((always, 0, 2), (middle, 5, 1)):
        assert [error["code"] for error in failed.errors] == ["engine_error"]
        assert ENGINE_SAYS in str(failed.error["message"])
        assert failed.text == expected(failed.prompt, tokens)
        assert len(failed.starts) == attempts
    assert [error["code"] for error in refused.errors] == ["engine_refused"]
    assert "the test's engine refuses this" in str(refused.error["message"])
    assert len(refused.starts) == 1
    assert all_complete([exchange for exchange in exchanges if exchange not in (always, middle, refused)])


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
    await one_works_and_another_is_free(scene, "--drain-timeout", "1")
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


async def test_a_frozen_one_is_replaced_under_its_name_and_woken(scene: Scene, record: Record) -> None:
    scene.start("w1")
    await scene.bring(mid_stream=2, starting=2)
    since = scene.ready_at
    await eventually(lambda: asyncio.get_running_loop().time() - since > SAME_TIME)
    older = scene.workers["w1"]
    scene.fault()
    older.signal(signal.SIGSTOP)
    newer = scene.start_worker("w1")
    limits = scene.settings.first_token_timeout + scene.settings.stall_timeout
    await eventually(lambda: all(len(scene.starts(each)) == 2 for each in scene.load.exchanges), within=limits + 30)
    older.signal(signal.SIGCONT)
    assert await asyncio.to_thread(older.wait) == 78
    assert "name taken over by another instance, this one leaves" in older.output()
    exchanges = await scene.finish()
    record("worker frozen, replaced under its name", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert newer.returncode is None
    assert "name given up by another instance" in newer.output()
