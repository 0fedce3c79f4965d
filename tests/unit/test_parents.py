"""What a controller tells its parents, and when: a parent here is made by hand, as LLaVA's and FastChat's are."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from broker_controller.parents import HEARTBEAT_INTERVAL, KEEP_MODEL, Parent, ParentError, Parents
from tests.waiting import eventually

US = "http://us:21001"
PARENT = "http://parent:21001"


class HandMadeParent:
    """Keeps workers as LLaVA's controller does, and forgets them when a test says so."""

    def __init__(self) -> None:
        self.workers: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.answer: httpx.Response | Exception | None = None

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request.url.path)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        body = json.loads(request.content)
        if request.url.path == "/register_worker":
            self.workers[body["worker_name"]] = body
            return httpx.Response(200, json=None)
        assert request.url.path == "/receive_heart_beat"
        known = body["worker_name"] in self.workers
        if known:
            self.workers[body["worker_name"]]["queue_length"] = body["queue_length"]
        return httpx.Response(200, json={"exist": known})


@pytest.fixture
def theirs() -> HandMadeParent:
    return HandMadeParent()


@pytest.fixture
async def ours(theirs: HandMadeParent) -> AsyncIterator[Parent]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(theirs.handle)) as client:
        yield Parent(PARENT, US, client)


def status(*models: str, queue_length: int = 0) -> dict[str, Any]:
    return {"model_names": list(models), "speed": 3, "queue_length": queue_length, "controller": "c1"}


async def test_the_whole_fleet_registers_as_one_worker(theirs: HandMadeParent, ours: Parent) -> None:
    await ours.tell(status("b", "a", queue_length=2), takes_images=True, now=0.0)
    assert theirs.workers[US] == {
        "worker_name": US,
        "check_heart_beat": True,
        "worker_status": {"model_names": ["a", "b"], "speed": 3, "queue_length": 2, "controller": "c1"},
        "multimodal": True,
    }


async def test_heartbeats_come_in_time_for_llavas_expiry_and_no_more_often(
    theirs: HandMadeParent, ours: Parent
) -> None:
    for second in range(61):
        await ours.tell(status("m", queue_length=second), takes_images=False, now=float(second))
    assert theirs.calls == ["/register_worker", *["/receive_heart_beat"] * 4]
    assert theirs.workers[US]["queue_length"] == 60
    assert HEARTBEAT_INTERVAL <= 15


async def test_a_new_model_is_told_at_once(theirs: HandMadeParent, ours: Parent) -> None:
    await ours.tell(status("m"), takes_images=False, now=0.0)
    await ours.tell(status("m", "n"), takes_images=False, now=1.0)
    assert theirs.workers[US]["worker_status"]["model_names"] == ["m", "n"]


async def test_a_model_whose_worker_restarts_is_not_taken_back(theirs: HandMadeParent, ours: Parent) -> None:
    await ours.tell(status("m"), takes_images=False, now=0.0)
    await ours.tell(status(), takes_images=False, now=KEEP_MODEL - 1)
    await ours.tell(status("m"), takes_images=False, now=KEEP_MODEL)
    assert theirs.calls.count("/register_worker") == 1
    await ours.tell(status(), takes_images=False, now=2 * KEEP_MODEL)
    assert theirs.workers[US]["worker_status"]["model_names"] == []


async def test_who_is_forgotten_registers_again(theirs: HandMadeParent, ours: Parent) -> None:
    await ours.tell(status("m"), takes_images=False, now=0.0)
    theirs.workers.clear()
    await ours.tell(status("m"), takes_images=False, now=HEARTBEAT_INTERVAL)
    await ours.tell(status("m"), takes_images=False, now=HEARTBEAT_INTERVAL + 1)
    assert US in theirs.workers


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (httpx.Response(403, json={"detail": "not from there"}), "HTTP 403.*not from there"),
        (httpx.ConnectError("refused"), "refused"),
        (httpx.InvalidURL("no such port"), "no such port"),
        (httpx.ReadTimeout(""), "ReadTimeout"),
    ],
)
async def test_a_parent_that_refuses_or_is_away_is_told_of_it_all_again(
    theirs: HandMadeParent, ours: Parent, answer: httpx.Response | Exception, says: str
) -> None:
    await ours.tell(status("m"), takes_images=False, now=0.0)
    theirs.answer = answer
    with pytest.raises(ParentError, match=says):
        await ours.tell(status("m", "n"), takes_images=False, now=1.0)
    theirs.answer = None
    await ours.tell(status("m", "n"), takes_images=False, now=2.0)
    assert theirs.workers[US]["worker_status"]["model_names"] == ["m", "n"]


@pytest.mark.parametrize("answer", [httpx.Response(200, text="<html>"), httpx.Response(200, json=[1])])
async def test_what_answers_otherwise_is_no_controller(
    theirs: HandMadeParent, ours: Parent, answer: httpx.Response
) -> None:
    await ours.tell(status("m"), takes_images=False, now=0.0)
    theirs.answer = answer
    with pytest.raises(ParentError, match="heartbeat"):
        await ours.tell(status("m"), takes_images=False, now=HEARTBEAT_INTERVAL)


async def test_a_parent_that_is_away_is_complained_of_once_and_no_more_tried_when_we_leave(
    free_port: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    leaving, asked = asyncio.Event(), 0

    def look() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return status("m")

    url = f"http://127.0.0.1:{free_port()}"
    parents = Parents([url], US, status=look, takes_images=lambda: False, is_leaving=leaving.is_set)
    task = asyncio.create_task(parents.run())
    await eventually(lambda: asked == 2)
    leaving.set()
    await asyncio.wait_for(task, 30)
    warnings = [record.getMessage() for record in caplog.records if record.name == "broker_controller.parents"]
    assert len(warnings) == 1
    assert url in warnings[0]
