"""Who waits for a slot is told its place, in the status and in its stream, and at the end who served it."""

import asyncio
import re
from collections import defaultdict
from typing import Any

import httpx

from tests.acceptance.fleet import Fleet, RunningController
from tests.waiting import eventually


class Streams:
    """Clients that stream; `lines` are the comments and the data that each has got, by request id."""

    def __init__(self, tasks: asyncio.TaskGroup, client: httpx.AsyncClient, url: str) -> None:
        self.lines: defaultdict[str, list[str]] = defaultdict(list)
        self._tasks = tasks
        self._client = client
        self._url = url

    def send(self, request_id: str, tokens: int) -> "asyncio.Task[None]":
        """Ask for an answer of so many tokens."""
        return self._tasks.create_task(self._read(request_id, tokens))

    async def _read(self, request_id: str, tokens: int) -> None:
        body = {"model": "m", "prompt": "one two", "max_tokens": tokens, "stream": True}
        headers = {"X-Request-Id": request_id}
        async with self._client.stream("POST", f"{self._url}/v1/completions", json=body, headers=headers) as response:
            self.lines[request_id] += [f"{name}: {value}" for name, value in response.headers.items()]
            async for line in response.aiter_lines():
                self.lines[request_id].append(line)


def waiting(controller: RunningController) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = controller.get("/status")["streams"]["waiting_requests"]
    return found


async def test_three_that_wait_for_one_slot_know_their_places(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--slots", "1", "--tokens-per-second", "20")
    controller.wait_for_workers("w1")
    # The forecast comes from what has finished.
    for _ in range(3):
        controller.chat("one two", 2)
    async with httpx.AsyncClient(timeout=60) as client, asyncio.TaskGroup() as tasks:
        streams = Streams(tasks, client, controller.url)
        holder = streams.send("holder", 2000)
        await eventually(lambda: controller.get("/status")["streams"]["running"] == 1)
        for number in (1, 2, 3):
            streams.send(f"r{number}", 2)
            await eventually(lambda number=number: len(waiting(controller)) == number)  # type: ignore[misc]
        await eventually(lambda: [one["of"] for one in waiting(controller)] == [3, 3, 3])
        listed = waiting(controller)
        assert [(one["request_id"], one["model"], one["place"]) for one in listed] == [
            ("r1", "m", 1),
            ("r2", "m", 2),
            ("r3", "m", 3),
        ]
        forecasts = [one["forecast_seconds"] for one in listed]
        assert forecasts == sorted(forecasts)
        assert forecasts[0] > 0
        told = re.compile(r": waiting about place=2 of 3 forecast=\d+s")
        await eventually(lambda: any(told.fullmatch(line) for line in streams.lines["r2"]))
        await eventually(lambda: all(streams.lines[f"r{number}"] for number in (1, 2, 3)))
        holder.cancel()
    assert waiting(controller) == []
    # Their headers went out before anybody knew who would answer.
    for request_id in ("r1", "r2", "r3"):
        lines = [line for line in streams.lines[request_id] if line]
        assert not any(line.startswith("x-worker") for line in lines)
        (last,) = [line for line in lines if line.startswith(": worker=")]
        assert re.fullmatch(r": worker=w1 attempts=1 queue_time=\d+\.\d{3}", last)
        assert lines.index(last) < lines.index("data: [DONE]")
