"""The broker runs short of memory or disk: new requests are refused at once, those that it has go on afterwards."""

import asyncio
import time
from itertools import pairwise

import pytest

from tests.faults.conftest import Record
from tests.faults.history import Exchange, Verdict, judge
from tests.faults.load import ARRIVING
from tests.faults.scene import MID_STREAM, STARTING, Scene
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


@pytest.mark.parametrize("what", ALARMS)
async def test_an_alarm(broker_scene: Scene, record: Record, what: str) -> None:
    scene, (begin, end) = broker_scene, ALARMS[what]
    options = ("--heartbeat-expiration", f"{EXPIRATION:g}", "--check-interval", "1")
    await asyncio.to_thread(scene.start, "w1", "w2", controller=options)
    await scene.bring(mid_stream=4, starting=4, queued=4)
    streams = list(scene.load.exchanges)
    scene.fault()
    await asyncio.to_thread(scene.node.rabbitmqctl, *begin)
    scene.let_clients_arrive()
    await scene.until(lambda status: status["broker"]["blocked"])
    # Longer than a stream may stall, a lost worker be waited for, and a silent one be kept.
    too_long = max(scene.settings.stall_timeout, scene.settings.controller_grace, EXPIRATION) + 2.0
    await eventually(lambda: time.monotonic() - last_token(streams) > too_long, within=too_long + 60.0)
    status = await scene.status()
    assert [worker["state"] for worker in status["workers"]] == ["ready"] * 2
    await scene.load.end_arrivals()
    await asyncio.to_thread(scene.node.rabbitmqctl, *end)
    exchanges = await scene.finish()
    record(f"broker's {what} alarm", exchanges, scene.fault_at)
    assert [judge(exchange) for exchange in streams] == [Verdict.COMPLETE] * 12
    assert all(len(exchange.starts) == 1 for exchange in streams)
    assert max(longest_silence(exchange) for exchange in streams if exchange.group in (MID_STREAM, STARTING)) < (
        LLAVA_TIMEOUT
    )
    refused = [exchange for exchange in exchanges if exchange.errors]
    assert {exchange.group for exchange in refused} == {ARRIVING}
    assert {(exchange.status, str(exchange.error["code"])) for exchange in refused} == {
        (503, "broker_unavailable"),
        (200, "3"),  # LLaVA's protocol knows no other status
    }
    assert all(int(exchange.headers["retry-after"]) > 0 for exchange in refused)
    assert all("alarm" in str(exchange.error["message"]) for exchange in refused)
    assert max(at_once(exchange) for exchange in refused) < LLAVA_TIMEOUT


def last_token(exchanges: list[Exchange]) -> float:
    return max(at for exchange in exchanges for at, _ in exchange.chunks)


def at_once(refused: Exchange) -> float:
    assert refused.ended_at is not None
    return refused.ended_at - refused.sent_at


def longest_silence(exchange: Exchange) -> float:
    """Seconds in which its client, while it waited, got no byte at all."""
    heard = sorted([exchange.sent_at, *(at for at, _ in exchange.chunks), *exchange.keepalives])
    return max(later - earlier for earlier, later in pairwise(heard))
