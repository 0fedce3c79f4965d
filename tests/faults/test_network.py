"""A cable is cut or swallows everything, between the broker and one of the programs: each stream goes on once."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from broker_controller.private_node import PrivateNode
from tests.faults.conftest import Record
from tests.faults.history import Exchange, all_complete
from tests.faults.scene import QUEUED, TOKENS, Scene
from tests.integration.amqp_harness import Proxy
from tests.waiting import eventually, eventually_sync

QUIET = 1.5
"""Seconds without a token after which a cable is known to be dead; below every stall limit."""


@pytest.fixture
async def cable(unharmed_node: PrivateNode) -> AsyncIterator[Proxy]:
    """The way to the broker of one program."""
    async with Proxy(unharmed_node.url) as proxy:
        yield proxy


async def one_works_at_the_end_of_the_cable(scene: Scene, cable: Proxy) -> list[Exchange]:
    """All that runs is at w1: two mid-stream, two starting."""
    await asyncio.to_thread(scene.start, "w1", worker=("--broker-url", cable.url))
    await scene.bring(mid_stream=2, starting=2)
    return scene.running_at("w1")


# --- a worker's


async def test_a_worker_that_returns_finds_its_streams_elsewhere(scene: Scene, cable: Proxy, record: Record) -> None:
    disturbed = await one_works_at_the_end_of_the_cable(scene, cable)
    await scene.start_a_free_one("w2")
    scene.fault()
    cable.refuse()
    await eventually(lambda: all(len(scene.starts(each)) == 2 for each in disturbed))
    assert any(exchange.ended_at is None for exchange in disturbed)
    await cable.listen()
    exchanges = await scene.finish()
    record("worker's network cut, free slots", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert [exchange.workers for exchange in exchanges] == [["w1", "w2"]] * 4
    await scene.until_ready("w1", "w2")


async def test_a_worker_that_returns_goes_on_where_nobody_else_could(
    scene: Scene, cable: Proxy, record: Record
) -> None:
    await one_works_at_the_end_of_the_cable(scene, cable)
    await scene.bring(queued=2)
    scene.fault()
    cable.cut()
    exchanges = await scene.finish()
    record("worker's network cut, no other worker", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert [exchange.workers for exchange in exchanges] == [["w1"]] * 6


async def test_a_worker_that_nobody_hears_is_fenced_when_it_is_back(scene: Scene, cable: Proxy, record: Record) -> None:
    disturbed = await one_works_at_the_end_of_the_cable(scene, cable)
    await scene.start_a_free_one("w2")
    scene.fault()
    cable.freeze()
    limits = scene.settings.first_token_timeout + scene.settings.stall_timeout
    await eventually(lambda: all(len(scene.starts(each)) == 2 for each in disturbed), within=limits + 30)
    assert any(exchange.ended_at is None for exchange in disturbed)
    cable.thaw()
    exchanges = await scene.finish()
    record("worker's network black-holed", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert [exchange.workers for exchange in exchanges] == [["w1", "w2"]] * 4
    await scene.until_ready("w1", "w2")


# --- a controller's


@pytest.mark.parametrize("how", ["cut", "cut for a time"])
async def test_a_controller_that_returns_goes_on_with_its_streams(
    scene: Scene, cable: Proxy, record: Record, how: str
) -> None:
    await asyncio.to_thread(scene.start, "w1", "w2", controller=("--broker-url", cable.url))
    await scene.bring(mid_stream=4, starting=4, queued=4)
    scene.fault()
    if how == "cut":
        cable.cut()
    else:
        cable.refuse()
        await scene.until(lambda status: not status["broker"]["connected"])
        await cable.listen()
    exchanges = await scene.finish()
    record(f"controller's network {how}", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    # Of what waited there may be two copies, for its answers had nowhere to go; what ran is not begun again.
    assert all(len(exchange.starts) == 1 for exchange in exchanges if exchange.group != QUEUED)


async def test_a_controller_that_is_back_beside_its_old_queue(scene: Scene, cable: Proxy, record: Record) -> None:
    await asyncio.to_thread(scene.start, "w1", "w2", controller=("--broker-url", cable.url))
    await scene.bring(mid_stream=4, starting=4, queued=4, tokens=2 * TOKENS)
    scene.fault()
    cable.half_open()
    # Until the broker misses the heartbeats of the old one: every reply is routed, whoever reads it.
    await asyncio.to_thread(eventually_sync, lambda: scene.reply_queues() == 2)
    assert any(exchange.ended_at is None for exchange in scene.load.exchanges)
    exchanges = await scene.finish()
    record("controller's network half-open", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert all(len(exchange.starts) == 1 for exchange in exchanges if exchange.group != QUEUED)


async def test_a_controller_that_hears_nobody_for_a_while(scene: Scene, cable: Proxy, record: Record) -> None:
    await asyncio.to_thread(scene.start, "w1", "w2", controller=("--broker-url", cable.url))
    await scene.bring(mid_stream=4, starting=4, queued=4)
    scene.fault()
    cable.freeze()

    def quiet() -> bool:
        last = max(at for exchange in scene.load.exchanges for at, _ in exchange.chunks)
        return time.monotonic() - last > QUIET

    await eventually(quiet)
    cable.thaw()
    exchanges = await scene.finish()
    record("controller's network black-holed", exchanges, scene.fault_at)
    assert all_complete(exchanges)
