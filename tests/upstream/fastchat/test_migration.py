"""The same requests to FastChat's own controller and to ours: the same answers, but for one table of differences.

Behind each is a worker of FastChat's. What clients ask at the address that they are handed out is asked there: at
FastChat's controller that is its worker's, at ours it is ours.
"""

import httpx
import pytest

from tests.acceptance.fleet import Fleet
from tests.upstream.comparing import WORKER, Body, Side, assert_same
from tests.upstream.fastchat.differences import DIFFERENCES
from tests.upstream.fastchat.programs import FastChat
from tests.waiting import eventually_sync

NOBODY = "http://localhost:9"
ELSEWHERE = "http://192.0.2.1:21002"
STATUS = {"model_names": ["m"], "speed": 1, "queue_length": 0}
PROMPT = {"model": "m", "prompt": "one two", "max_new_tokens": 5, "temperature": 0.0, "stop": None}
INPUT = {"model": "m", "input": ["one", "two words"]}

TO_THE_CONTROLLER: dict[str, tuple[str, Body]] = {
    "status": ("/worker_get_status", None),
    "models": ("/list_models", None),
    "language models": ("/list_language_models", None),
    "multimodal models": ("/list_multimodal_models", None),
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
        {"worker_name": WORKER, "check_heart_beat": True, "worker_status": STATUS, "multimodal": False},
    ),
    "register without a status": ("/register_worker", {"worker_name": WORKER, "check_heart_beat": True}),
    "register: nobody answers": ("/register_worker", {"worker_name": NOBODY, "check_heart_beat": True}),
    "register: nothing": ("/register_worker", {}),
    "register: no JSON": ("/register_worker", b"{"),
    "stream": ("/worker_generate_stream", PROMPT),
    "stream: unknown model": ("/worker_generate_stream", PROMPT | {"model": "another"}),
    "models at the end": ("/list_models", None),
    "register: an address elsewhere": (
        "/register_worker",
        {"worker_name": ELSEWHERE, "check_heart_beat": True, "worker_status": STATUS},
    ),
}
TO_THE_ADDRESS: dict[str, tuple[str, Body]] = {
    "count": ("/count_token", {"model": "m", "prompt": "one two"}),
    "count: nothing to count": ("/count_token", {"model": "m", "prompt": ""}),
    "count: no prompt": ("/count_token", {"model": "m"}),
    "details": ("/model_details", {"model": "m"}),
    "details: another model": ("/model_details", {"model": "another"}),
    "conversation": ("/worker_get_conv_template", {"model": "m"}),
    "count: no JSON": ("/count_token", b"{"),
    "conversation: no model": ("/worker_get_conv_template", {}),
    "embeddings": ("/worker_get_embeddings", INPUT),
    "embeddings as base64": ("/worker_get_embeddings", INPUT | {"encoding_format": "base64"}),
    "generate": ("/worker_generate", PROMPT | {"echo": False}),
    "generate with the prompt": ("/worker_generate", PROMPT | {"echo": True}),
    "generate: error": ("/worker_generate", PROMPT | {"prompt": "say !error"}),
    "stream without the prompt": ("/worker_generate_stream", PROMPT | {"echo": False}),
    "stream with the prompt": ("/worker_generate_stream", PROMPT | {"echo": True}),
    "stream: error": ("/worker_generate_stream", PROMPT | {"prompt": "say !error"}),
}


@pytest.fixture(scope="module")
def sides(fleet: Fleet, fastchat: FastChat) -> tuple[Side, Side]:
    """Theirs and ours."""
    theirs = fastchat.controller()
    ours = fleet.controller("--dispatch-method", "shortest_queue")
    late = fleet.controller()
    worker, _ = fastchat.worker(theirs)
    bridged, _ = fastchat.worker(ours.url)
    for controller in (ours, late):
        eventually_sync(lambda url=controller: url.workers() == {bridged: "ready"})  # type: ignore[misc]
    old, new = Side(theirs, worker), Side(ours.url, bridged)
    for side in (old, new):
        side.ask(TO_THE_CONTROLLER)
    # Ours is asked where clients are sent to its own address, which is the default.
    for side, controller_url in ((old, theirs), (new, late.url)):
        address = httpx.post(f"{controller_url}/get_worker_address", json={"model": "m"}, timeout=60).json()["address"]
        side.ask(TO_THE_ADDRESS, address)
    return old, new


@pytest.mark.parametrize("step", [*TO_THE_CONTROLLER, *TO_THE_ADDRESS])
def test_an_answer_is_the_same_or_differs_as_the_table_says(sides: tuple[Side, Side], step: str) -> None:
    theirs, ours = (side.answers[step] for side in sides)
    assert_same(theirs, ours, DIFFERENCES.get(step))


def test_the_connection_test_is_a_get_of_one_word(sides: tuple[Side, Side]) -> None:
    answers = [httpx.get(f"{side.controller}/test_connection", timeout=60) for side in sides]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, "success")] * 2


def test_the_table_has_no_step_that_is_not_asked() -> None:
    assert DIFFERENCES.keys() <= {*TO_THE_CONTROLLER, *TO_THE_ADDRESS}
