"""A worker dies, freezes, blocks, leaves: its streams go on elsewhere, and nobody else notices."""

import asyncio
import signal

from tests.faults.conftest import Record
from tests.faults.engine import ENGINE_SAYS
from tests.faults.history import Verdict, judge
from tests.faults.report import has_moved
from tests.faults.scene import MID_STREAM, STARTING, TOKENS, Scene


async def test_killed_with_a_free_slot_elsewhere(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2", slots=8)
    await scene.bring(mid_stream=4, starting=4)
    victim = await scene.busiest()
    scene.fault()
    scene.workers[victim].kill()
    exchanges = await scene.finish()
    record("worker kill -9, free slots", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)
    assert any(has_moved(exchange) for exchange in exchanges)


async def test_killed_while_every_slot_is_taken(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2")
    await scene.bring(mid_stream=4, starting=4, queued=4)
    victim = await scene.busiest()
    scene.fault()
    scene.workers[victim].kill()
    exchanges = await scene.finish()
    record("worker kill -9, full fleet", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)


async def test_frozen(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2", "w3")
    await scene.bring(mid_stream=6)
    victim = await scene.busiest()
    scene.fault()
    scene.workers[victim].signal(signal.SIGSTOP)
    await scene.until(lambda status: status["streams"]["running"] == 0, within=60)
    scene.workers[victim].signal(signal.SIGCONT)
    exchanges = await scene.finish()
    record("worker SIGSTOP", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)
    assert any(has_moved(exchange) for exchange in exchanges)


async def test_an_engine_that_blocks_its_thread(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2")
    scene.fault()
    scene.send("blocked", "block:10:20", TOKENS)
    await scene.bring(mid_stream=4, tokens=3 * TOKENS)
    exchanges = await scene.finish()
    record("engine blocks its thread", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)
    assert [exchange.group for exchange in exchanges if has_moved(exchange)] == ["blocked"]


async def test_an_engine_that_raises(scene: Scene, record: Record) -> None:
    scene.start("w1")
    scene.fault()
    once = scene.send(STARTING, "raise-once:0", TOKENS // 4).exchange
    middle = scene.send(MID_STREAM, "raise:10", TOKENS // 4).exchange
    refused = scene.send("refused", "refuse", TOKENS // 4).exchange
    exchanges = await scene.finish()
    record("engine raises", exchanges, scene.fault_at)
    assert judge(once) is Verdict.COMPLETE
    assert [error["code"] for error in middle.errors] == ["engine_error"]
    assert ENGINE_SAYS in str(middle.error["message"])
    assert len(middle.chunks) == 10
    assert [error["code"] for error in refused.errors] == ["engine_refused"]
    assert "worker" in str(refused.error["message"])


async def test_one_poison_among_ten(scene: Scene, record: Record) -> None:
    names = ("w1", "w2", "w3")
    scene.start(*names)
    scene.fault()
    poison = scene.send("poison", "poison:8", TOKENS).exchange
    for _ in range(9):
        scene.send("beside it")
    while poison.ended_at is None:
        for name in names:
            if scene.workers[name].returncode is not None:
                scene.start_worker(name)
        await asyncio.sleep(0.05)
    exchanges = await scene.finish()
    record("a poison among ten", exchanges, scene.fault_at)
    assert [error["code"] for error in poison.errors] == ["killed_workers"]
    assert "3 workers died" in str(poison.error["message"])
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges if exchange is not poison)


async def test_drained(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2")
    await scene.bring(mid_stream=4, starting=4, queued=4)
    victim = await scene.busiest()
    scene.fault()
    scene.workers[victim].terminate()
    exchanges = await scene.finish()
    record("worker SIGTERM", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)
    assert not any(has_moved(exchange) for exchange in exchanges)
    assert scene.workers[victim].wait() == 0


async def test_drained_past_its_time(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2", slots=8, worker=("--drain-timeout", "1"))
    await scene.bring(mid_stream=6)
    victim = await scene.busiest()
    scene.fault()
    scene.workers[victim].terminate()
    exchanges = await scene.finish()
    record("worker SIGTERM, past its drain timeout", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)
    assert any(has_moved(exchange) for exchange in exchanges)


async def test_the_newer_of_two_with_one_name_stays(scene: Scene, record: Record) -> None:
    scene.start("w1", "w2", slots=8)
    await scene.bring(mid_stream=6)
    older = scene.workers["w1"]
    scene.fault()
    newer = scene.start_worker("w1", 8)
    exchanges = await scene.finish()
    record("two workers of one name", exchanges, scene.fault_at)
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges)
    assert await asyncio.to_thread(older.wait) == 78
    assert newer.returncode is None
