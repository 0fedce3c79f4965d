"""A worker freezes, blocks, or its engine fails: its streams go on elsewhere, and those beside them do not notice."""

import asyncio
import signal
from itertools import pairwise

import pytest

from tests.faults.conftest import Record
from tests.faults.engine import ENGINE_SAYS, expected
from tests.faults.history import Exchange, Verdict, all_complete, judge
from tests.faults.report import has_moved
from tests.faults.scene import MID_STREAM, PACE, STARTING, Scene
from tests.waiting import eventually
from workers_shim.departure import SAME_TIME

RESUMED_WITHIN = 10.0
"""Seconds, generously, for streams of which a frozen worker takes up to its slots."""

NOTICED_WITHIN = 60.0
"""Seconds, generously; the broker notices a frozen worker by its heartbeats after about 40."""


# --- it does not go on


async def test_frozen_and_woken_later(scene: Scene, record: Record) -> None:
    disturbed = await scene.one_works_and_another_is_free()
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
    await scene.until_ready("w1", "w2")


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


# --- and another one has its name


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
