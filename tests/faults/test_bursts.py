"""More requests than the fleet can serve: a bounded queue, in order; above it a refusal that says when to come."""

import asyncio

import pytest

from tests.faults.conftest import Record
from tests.faults.history import Exchange, Verdict, judge
from tests.faults.memory import FLAT, resident_bytes
from tests.faults.scene import PACE, Scene
from tests.faults.settings import DEFAULT
from tests.waiting import eventually

SLOTS = 8
TOKENS = 10
SERVED_PER_SECOND = SLOTS * PACE / TOKENS
MEGABYTE = 1_000_000
IN_ORDER = 3.0
"""Seconds between two requests after which the later one does not begin first, whatever way each of them takes."""


@pytest.mark.usefixtures("many_files")
async def test_two_thousand_at_once(scene: Scene, record: Record) -> None:
    limit = 500
    bounds = ("--queue-limit", str(limit))
    scene.start("w1", "w2", controller=bounds, worker=("--tokens-per-second", "50", *bounds))
    before = resident_bytes(scene.controller.process)
    scene.fault()
    for _ in range(2000):
        scene.send("all at once", tokens=5)
    exchanges = await scene.finish()
    record("2,000 at once, 8 slots, 500 may wait", exchanges, scene.fault_at)
    refused = all_are_served_or_refused(exchanges)
    assert len(exchanges) - len(refused) >= limit
    memory_is_flat(scene, before)


async def test_ten_times_the_load(scene: Scene, record: Record) -> None:
    seconds = 60.0 if scene.settings.name == DEFAULT.name else 10.0
    bounds = ("--queue-limit", "100")
    await asyncio.to_thread(scene.start, "w1", "w2", controller=bounds, worker=bounds)
    scene.fault()
    scene.load.begin_arrivals(scene.controller.url, 1 / (10 * SERVED_PER_SECOND), TOKENS)
    await eventually(lambda: any(exchange.errors for exchange in scene.load.exchanges))
    before = resident_bytes(scene.controller.process)
    since = scene.load.exchanges[-1].sent_at
    await eventually(lambda: scene.load.exchanges[-1].sent_at - since > seconds, within=seconds + 30)
    memory_is_flat(scene, before)
    await scene.load.end_arrivals()
    exchanges = await scene.finish()
    record(f"ten times the load for {seconds:.0f} s", exchanges, scene.fault_at)
    refused = all_are_served_or_refused(exchanges)
    served = [exchange for exchange in exchanges if not exchange.errors]
    print(f"{len(served)} served, {len(refused)} refused")
    assert len(served) > SERVED_PER_SECOND * seconds / 2
    earlier_ones_began_first(served)


async def test_a_queue_is_bounded_in_bytes(scene: Scene, record: Record) -> None:
    limit = 4 * MEGABYTE
    await asyncio.to_thread(scene.start, "w1", slots=1, worker=("--queue-bytes", str(limit)))
    await scene.bring(mid_stream=1)
    scene.fault()
    for _ in range(10):
        scene.send("a megabyte each", "x" * MEGABYTE, tokens=2)
    exchanges = await scene.finish()
    record("10 MB at once, 4 MB may wait", exchanges, scene.fault_at)
    refused = all_are_served_or_refused(exchanges)
    # The one that fills it is taken whole.
    assert len(refused) >= 10 - (limit // MEGABYTE + 1)
    assert len(refused) < 10


def all_are_served_or_refused(exchanges: list[Exchange]) -> list[Exchange]:
    """Those that were refused: at once, before anybody began with them, and told when to come again."""
    refused = [exchange for exchange in exchanges if exchange.errors]
    assert refused
    assert all(judge(exchange) is Verdict.COMPLETE for exchange in exchanges if not exchange.errors)
    # LLaVA's protocol knows no status but 200.
    assert {(exchange.status, str(exchange.error["code"])) for exchange in refused} <= {(429, "queue_full"), (200, "3")}
    assert all("retry-after" in exchange.headers for exchange in refused if exchange.status == 429)
    assert all(1 <= exchange.retry_after <= 120 for exchange in refused)
    assert all(exchange.starts == [] for exchange in refused)
    return refused


def earlier_ones_began_first(served: list[Exchange]) -> None:
    began = [(exchange.sent_at, exchange.starts[0][0]) for exchange in served]
    for index, (sent, started) in enumerate(began):
        later = (other for other_sent, other in began[index:] if other_sent > sent + IN_ORDER)
        assert started < next(later, float("inf"))


def memory_is_flat(scene: Scene, before: int) -> None:
    grown = resident_bytes(scene.controller.process) - before
    print(f"the controller grew by {grown / 2**20:.1f} MiB")
    assert grown < FLAT
