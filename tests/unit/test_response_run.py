"""One response in the background, as one controller runs it: what it writes to the log, and when it asks again."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from broker_controller.errors import QueueFullError
from broker_controller.request_sender import Submission
from broker_controller.responses import run
from broker_controller.responses.run import Run, RunEnd
from broker_controller.responses.shelf import Kept, Shelf
from broker_controller.session_key import read_session
from broker_controller.streams import GenerationStream
from broker_wire.messages import Begun, CancelAsked, Created, Record, Said
from tests.unit.http_double import WITHIN, GatewayDouble
from tests.unit.test_response_narrator import fields_of


class LogDouble:
    """The log, and what comes back of it: a moment later, as from the broker, or when the test lets it."""

    controller_id = "ours"
    congested = False

    def __init__(self) -> None:
        self.shelf = Shelf(ttl=600.0, max_bytes=1_000_000)
        self.noted: list[Record] = []

    def note(self, record: Record, size: int = 256, done: Callable[[], None] | None = None) -> None:
        self.noted.append(record)
        asyncio.get_running_loop().call_soon(self.comes_back, record)

    def comes_back(self, record: Record, controller: str = controller_id) -> None:
        self.shelf.apply([record], controller, time.time())

    def kept(self, **fields: Any) -> Kept:
        now = time.time()
        asked = json.dumps(fields_of(background=True, model="m", **fields)).encode()
        self.comes_back(Created("r", now, True, asked, b"[]", 100.0))
        kept = self.shelf.get("r")
        assert kept is not None
        return kept


@pytest.mark.parametrize("reads_sessions", [True, False])
async def test_where_caches_are_looked_for_its_session_is_read(reads_sessions: bool) -> None:
    log, gateway = LogDouble(), GatewayDouble()
    kept = log.kept(prompt_cache_key="k")
    ours = Run(cast("Any", gateway), cast("Any", log), kept, 1_000_000, reads_sessions=reads_sessions)

    going = asyncio.create_task(ours.go())
    stream = (await gateway.submitted()).start()
    stream.end()
    await asyncio.wait_for(going, WITHIN)

    same = read_session("m", b'{"prompt_cache_key": "k"}', None)
    assert stream.submission.session == (same if reads_sessions else None)


class FullGateway(GatewayDouble):
    """Takes nothing, and counts what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.was_asked = asyncio.Event()

    async def submit(self, submission: Submission) -> GenerationStream:
        self.asked += 1
        self.was_asked.set()
        raise QueueFullError("full")


def run_of(kept: Kept, gateway: GatewayDouble, log: LogDouble) -> Run:
    return Run(cast("Any", gateway), cast("Any", log), kept, 1_000_000, reads_sessions=False)


async def test_what_another_run_still_wrote_before_this_one_was_heard_is_not_written_over() -> None:
    log, gateway = LogDouble(), GatewayDouble()
    kept = log.kept()
    log.comes_back(Begun("r", 1), "other")
    ours = run_of(kept, gateway, log)
    log.comes_back(Said("r", 1, 0, ["a", "b"]), "other")

    going = asyncio.create_task(ours.go())
    stream = (await gateway.submitted()).start()
    assert stream.submission.had == ("a", "b")
    stream.feed("c", "d").end()

    assert await asyncio.wait_for(going, WITHIN) is RunEnd.OVER
    assert kept.items == ["a", "b", "c", "d"]


async def test_its_own_words_in_the_log_are_no_reason_to_ask_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "LOOK_INTERVAL", 3600.0)
    log = LogDouble()
    kept = log.kept()
    gateway = FullGateway()
    heard = asyncio.Event()
    going = asyncio.create_task(run_of(kept, gateway, log).go())
    await asyncio.wait_for(gateway.was_asked.wait(), WITHIN)
    kept.on_change.append(heard.set)
    log.comes_back(Begun("r", kept.epoch))
    await asyncio.wait_for(heard.wait(), WITHIN)
    log.comes_back(CancelAsked("r", time.time()))

    assert await asyncio.wait_for(going, WITHIN) is RunEnd.OVER
    assert gateway.asked == 1
