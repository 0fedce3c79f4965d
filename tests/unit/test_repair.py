"""What the broker closed is opened again: tried without end, and not told without end."""

import asyncio
import logging

import pytest

from broker_wire.errors import BrokerError
from tests.waiting import eventually
from workers_shim import repair
from workers_shim.repair import Repair


async def test_the_same_reason_is_told_once_and_another_one_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(repair, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(repair, "MAX_DELAY", 0.002)
    reasons = ["its node is down"] * 3 + ["no permission"]

    async def open_again() -> bool:
        if reasons:
            raise BrokerError(reasons.pop(0))
        return True

    mended = Repair("w1", open_again)
    task = asyncio.create_task(mended.run())
    mended.ask()
    await eventually(lambda: not reasons and not mended.wanted)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"channel not opened again worker=w1 reason={why}" for why in ("its node is down", "no permission")]


async def test_while_it_cannot_look_it_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(repair, "MAX_DELAY", 0.002)
    looks = [False, False, True]

    async def open_again() -> bool:
        return looks.pop(0)

    mended = Repair("w1", open_again)
    task = asyncio.create_task(mended.run())
    mended.ask()
    await eventually(lambda: not looks and not mended.wanted)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
