"""The broker runs short of memory or disk: new requests are refused at once, those that it has go on afterwards."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from tests.faults.conftest import Record
from tests.faults.history import Exchange, all_complete
from tests.faults.load import ARRIVING
from tests.faults.scene import MID_STREAM, STARTING, Scene
from tests.faults.settings import cases
from tests.waiting import eventually

ALARMS = {
    "memory": (("set_vm_memory_high_watermark", "absolute", "1"), ("set_vm_memory_high_watermark", "0.4")),
    "disk": (("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "50MB")),
}
"""How each is raised, and how it ends."""
EXPIRATION = 8.0
"""Seconds; a worker's heartbeat comes every 5."""
LLAVA_TIMEOUT = 10.0
"""Seconds without a byte after which LLaVA's web server gives an answer up."""


@pytest.mark.parametrize("what", cases(ALARMS, short=["memory"]))
async def test_an_alarm(broker_scene: Scene, record: Record, what: str) -> None:
    scene = broker_scene
    options = ("--heartbeat-expiration", f"{EXPIRATION:g}", "--check-interval", "1")
    await asyncio.to_thread(scene.start, "w1", "w2", controller=options)
    await scene.bring(mid_stream=4, starting=4, queued=4)
    streams = list(scene.load.exchanges)
    async with alarm(scene, what):
        scene.let_clients_arrive()
        await until_it_lasts_too_long(scene, streams)
        assert [worker["state"] for worker in (await scene.status())["workers"]] == ["ready"] * 2
        await scene.load.end_arrivals()
    exchanges = await scene.finish()
    record(f"broker's {what} alarm", exchanges, scene.fault_at)
    assert all_complete(streams)
    assert all(len(exchange.starts) == 1 for exchange in streams)
    running = [exchange for exchange in streams if exchange.group in (MID_STREAM, STARTING)]
    assert max(longest_silence(exchange) for exchange in running) < LLAVA_TIMEOUT
    refused = [exchange for exchange in exchanges if exchange.errors]
    assert {exchange.group for exchange in refused} == {ARRIVING}
    assert {(exchange.status, str(exchange.error["code"])) for exchange in refused} == {
        (503, "broker_unavailable"),
        (200, "3"),  # LLaVA's protocol knows no other status
    }
    assert all("retry-after" in exchange.headers for exchange in refused if exchange.status == 503)
    assert all(exchange.retry_after > 0 for exchange in refused)
    assert all("alarm" in str(exchange.error["message"]) for exchange in refused)
    assert max(at_once(exchange) for exchange in refused) < LLAVA_TIMEOUT


async def test_an_alarm_under_which_nobody_asks(broker_scene: Scene, record: Record) -> None:
    # RabbitMQ tells of an alarm only whoever publishes. And what cannot move would end, were it taken for stalled.
    scene = broker_scene
    await asyncio.to_thread(scene.start, "w1", worker=("--resume", "never"))
    await scene.bring(mid_stream=2, starting=2)
    async with alarm(scene, "memory"):
        await until_it_lasts_too_long(scene, scene.load.exchanges)
    exchanges = await scene.finish()
    record("broker's memory alarm, nobody asks", exchanges, scene.fault_at)
    assert all_complete(exchanges)
    assert all(len(exchange.starts) == 1 for exchange in exchanges)


@asynccontextmanager
async def alarm(scene: Scene, what: str) -> AsyncIterator[None]:
    begin, end = ALARMS[what]
    scene.fault()
    await asyncio.to_thread(scene.node.rabbitmqctl, *begin)
    await scene.until(lambda status: status["broker"]["blocked"])
    yield
    await asyncio.to_thread(scene.node.rabbitmqctl, *end)


async def until_it_lasts_too_long(scene: Scene, streams: list[Exchange]) -> None:
    """Longer than a stream may stall, a lost worker be waited for, and a silent one be kept."""
    seconds = max(scene.settings.stall_timeout, scene.settings.controller_grace, EXPIRATION) + 2.0
    await eventually(lambda: time.monotonic() - last_token(streams) > seconds, within=seconds + 60.0)


def last_token(exchanges: list[Exchange]) -> float:
    return max(at for exchange in exchanges for at, _ in exchange.chunks)


def at_once(refused: Exchange) -> float:
    assert refused.ended_at is not None
    return refused.ended_at - refused.sent_at


def longest_silence(exchange: Exchange) -> float:
    """Seconds in which its client, while it waited, got no byte at all."""
    heard = sorted([exchange.sent_at, *(at for at, _ in exchange.chunks), *exchange.keepalives])
    return max(later - earlier for earlier, later in pairwise(heard))
