"""The same requests to LLaVA's own controller and to ours: the same answers, but for one table of differences.

Behind each is a worker of LLaVA's.
"""

import pytest

from tests.acceptance.fleet import Fleet
from tests.upstream.comparing import WORKER, Body, Side, assert_same
from tests.upstream.llava.differences import DIFFERENCES
from tests.upstream.llava.programs import LLaVA
from tests.waiting import eventually_sync

NOBODY = "http://localhost:9"
ELSEWHERE = "http://192.0.2.1:21002"
STATUS = {"model_names": ["m"], "speed": 1, "queue_length": 0}
PROMPT = {"model": "m", "prompt": "one two", "max_new_tokens": 5, "temperature": 0.0, "stop": "###"}

STEPS: dict[str, tuple[str, Body]] = {
    "status": ("/worker_get_status", None),
    "models": ("/list_models", None),
    "refresh": ("/refresh_all_workers", None),
    "models after the refresh": ("/list_models", None),
    "address": ("/get_worker_address", {"model": "m"}),
    "address: unknown model": ("/get_worker_address", {"model": "another"}),
    "address: nothing": ("/get_worker_address", {}),
    "heartbeat": ("/receive_heart_beat", {"worker_name": WORKER, "queue_length": 1}),
    "heartbeat of nobody": ("/receive_heart_beat", {"worker_name": NOBODY, "queue_length": 1}),
    "heartbeat: nothing": ("/receive_heart_beat", {}),
    "register again": (
        "/register_worker",
        {"worker_name": WORKER, "check_heart_beat": True, "worker_status": STATUS},
    ),
    "register without a status": ("/register_worker", {"worker_name": WORKER, "check_heart_beat": True}),
    "register: nobody answers": ("/register_worker", {"worker_name": NOBODY, "check_heart_beat": True}),
    "register: nothing": ("/register_worker", {}),
    "register: no JSON": ("/register_worker", b"{"),
    "stream": ("/worker_generate_stream", PROMPT),
    "stream with images": ("/worker_generate_stream", PROMPT | {"images": ["iVBORw0KGgo="]}),
    "stream: unknown model": ("/worker_generate_stream", PROMPT | {"model": "another"}),
    "stream: error": ("/worker_generate_stream", PROMPT | {"prompt": "say !error"}),
    "models at the end": ("/list_models", None),
    "register: an address elsewhere": (
        "/register_worker",
        {"worker_name": ELSEWHERE, "check_heart_beat": True, "worker_status": STATUS},
    ),
}


@pytest.fixture(scope="module")
def sides(fleet: Fleet, llava: LLaVA) -> tuple[Side, Side]:
    """Theirs and ours."""
    theirs = llava.controller("shortest_queue")
    ours = fleet.controller("--dispatch-method", "shortest_queue")
    worker, _ = llava.worker(theirs)
    bridged, _ = llava.worker(ours.url)
    eventually_sync(lambda: ours.workers() == {bridged: "ready"})
    both = Side(theirs, worker), Side(ours.url, bridged)
    for side in both:
        side.ask(STEPS)
    return both


@pytest.mark.parametrize("step", STEPS)
def test_an_answer_is_the_same_or_differs_as_the_table_says(sides: tuple[Side, Side], step: str) -> None:
    theirs, ours = (side.answers[step] for side in sides)
    assert_same(theirs, ours, DIFFERENCES.get(step))


def test_the_table_has_no_step_that_is_not_asked() -> None:
    assert DIFFERENCES.keys() <= STEPS.keys()
