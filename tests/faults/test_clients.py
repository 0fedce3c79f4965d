"""Clients leave, do not read, come too late or all at once, ask for very much: each bears its own lot, and no other."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.faults.client import Client, Protocol
from tests.faults.conftest import Record
from tests.faults.history import Verdict, all_complete, judge
from tests.faults.scene import MID_STREAM, QUEUED, STARTING, Scene
from tests.waiting import eventually

GOES_AT_ONCE = 5.0
"""Seconds, generously: a slot is free when the engine has looked whether anybody still wants the answer."""
UNREAD = 60.0
"""Seconds for which a client reads nothing, with the default settings."""
UNREAD_AT_MOST = 240.0
STILL = 2.0
"""Seconds; in so many an engine that is not held makes a megabyte."""


@pytest.mark.parametrize(("name", "how"), [("leaves", Client.leave), ("half-closes", Client.half_close)])
async def test_who_leaves_gives_its_slot_to_the_next(
    scene: Scene, record: Record, name: str, how: Callable[[Client], None]
) -> None:
    scene.start("w1", slots=2)
    await scene.bring(mid_stream=1, starting=1, queued=3, tokens=2000)
    flowing, starting, unlucky, second, third = scene.load.clients
    for client, heir in ((unlucky, None), (flowing, second), (starting, third)):
        scene.fault()
        how(client)
        client.exchange.left = True
        await eventually(lambda client=client: client.exchange.ended_at is not None)  # type: ignore[misc]
        if heir is not None:
            await eventually(lambda heir=heir: scene.starts(heir.exchange))  # type: ignore[misc]
            (at, _), *_ = scene.starts(heir.exchange)
            print(f"{name} while {client.exchange.group}: the slot was the next one's after "
                  f"{1000 * (at - scene.fault_at):.0f} ms")  # fmt: skip
            assert at - scene.fault_at < GOES_AT_ONCE
    second.leave()
    third.leave()
    await eventually(lambda: third.exchange.ended_at is not None and second.exchange.ended_at is not None)
    survivor = scene.send(QUEUED, tokens=20)
    exchanges = await scene.finish()
    record(f"client {name}", exchanges, scene.fault_at)
    assert exchanges == [survivor.exchange]
    assert scene.starts(unlucky.exchange) == []


async def test_who_does_not_read_slows_down_itself_alone(scene: Scene, record: Record) -> None:
    scene.start("w1", worker=("--tokens-per-second", "5000"))
    # Megabytes, so that neither the controller's own mark nor any socket's buffer holds it all.
    word, tokens = "x" * 1000, 30_000
    slow = scene.load.send(
        scene.controller.url, "reads nothing", steps=word, tokens=tokens, within=UNREAD_AT_MOST, receive_buffer=4096
    )
    await eventually(lambda: slow.exchange.chunks)
    slow.stop_reading()
    scene.fault()
    held = await held_still(scene)
    beside = [scene.send("beside it", tokens=20_000) for _ in range(2)]
    await scene.load.until_each("beside it", lambda exchange: exchange.ended_at is not None, within=60)
    if scene.settings.name == "default":
        await eventually(lambda: time.monotonic() - scene.fault_at > UNREAD, within=UNREAD_AT_MOST)
    await scene.until(lambda status: status["streams"]["running"] == 1)
    assert await held_still(scene) == held
    slow.go_on_reading()
    exchanges = await scene.finish()
    record("client reads nothing", exchanges, scene.fault_at)
    whole = len(slow.exchange.text)
    print(f"the controller held {held / 2**20:.1f} MiB of {whole / 2**20:.1f} MiB")
    assert all_complete(exchanges)
    assert len(slow.exchange.starts) == len(beside[0].exchange.starts) == 1
    assert held < whole / 2


async def test_a_deadline_passes_in_every_state(scene: Scene, record: Record) -> None:
    scene.start("w1", slots=2)
    # Below the 5 s for which a status is held.
    hurried = await asyncio.to_thread(scene.fleet.controller, "--request-timeout", "4")
    holders = [scene.send("holds the slots", tokens=2000) for _ in range(2)]
    await scene.load.until_each("holds the slots", lambda exchange: exchange.chunks)
    scene.fault()
    queued = scene.load.send(hurried.url, QUEUED).exchange
    await eventually(lambda: queued.ended_at is not None)
    for holder in holders:
        holder.leave()
    flowing = scene.load.send(hurried.url, MID_STREAM, tokens=2000).exchange
    starting = scene.load.send(hurried.url, STARTING, steps="pause:60").exchange
    exchanges = await scene.finish()
    record("deadline passes", exchanges, scene.fault_at)
    for exchange, place in ((flowing, r"after \d+ chunks?"), (starting, "starting on"), (queued, "in the queue")):
        assert [error["code"] for error in exchange.errors] == ["deadline_exceeded"]
        assert re.search(place, str(exchange.error["message"]))
    assert queued.status == 504
    assert int(queued.headers["retry-after"]) > 1
    # A ghost of it would begin as soon as a slot is free.
    assert queued.starts == []


@pytest.mark.parametrize("protocol", [Protocol.OPENAI, Protocol.LLAVA])
async def test_an_answer_of_very_many_chunks(scene: Scene, record: Record, protocol: Protocol) -> None:
    scene.start("w1", worker=("--tokens-per-second", "1000000"))
    scene.fault()
    scene.load.send(scene.controller.url, "many chunks", tokens=100_000, protocol=protocol)
    exchanges = await scene.finish()
    record(f"100,000 chunks ({protocol.name})", exchanges, scene.fault_at)
    assert judge(exchanges[0]) is Verdict.COMPLETE


async def test_words_of_a_megabyte_and_bodies_beyond_the_limit(scene: Scene, record: Record) -> None:
    scene.start("w1")
    scene.fault()
    long = scene.send("1 MB without a space", "x" * 1_000_000, tokens=3).exchange
    beside = scene.send("beside it", tokens=20).exchange
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 17 * 2**20}]}
    # It is refused by its length alone, while the client still writes: httpx reads the answer all the same.
    huge = await asyncio.to_thread(httpx.post, f"{scene.controller.url}/v1/chat/completions", json=body)
    exchanges = await scene.finish()
    record("very large requests", exchanges, scene.fault_at)
    assert [judge(exchange) for exchange in (long, beside)] == [Verdict.COMPLETE] * 2
    assert (huge.status_code, huge.json()["error"]["code"]) == (413, "request_too_large")


async def held_still(scene: Scene) -> int:
    """Bytes that the controller holds of requests and answers, when they have become no more for a while."""
    held, since = -1, 0.0

    def stand_still(status: Any) -> bool:
        nonlocal held, since
        if status["streams"]["inflight_bytes"] != held:
            held, since = status["streams"]["inflight_bytes"], time.monotonic()
        return time.monotonic() - since > STILL

    await scene.until(stand_still)
    return held
