"""The same requests to FastChat's own controller and to ours: the same answers, but for one table of differences.

Behind each is a worker of FastChat's. What clients ask at the address that they are handed out is asked there: at
FastChat's controller that is its worker's, at ours it is ours.
"""

import json
from collections.abc import Collection
from typing import Any

import httpx
import pytest

from tests.acceptance.fleet import Fleet
from tests.fastchat.differences import DIFFERENCES, WHO_GAVE_IT
from tests.fastchat.programs import FastChat
from tests.waiting import eventually_sync

WORKER = "<worker>"
NOBODY = "http://localhost:9"
ELSEWHERE = "http://192.0.2.1:21002"
STATUS = {"model_names": ["m"], "speed": 1, "queue_length": 0}
PROMPT = {"model": "m", "prompt": "one two", "max_new_tokens": 5, "temperature": 0.0, "stop": None}
INPUT = {"model": "m", "input": ["one", "two words"]}

Body = dict[str, Any] | bytes | None

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

Answer = tuple[int, Any]
"""HTTP status, and the JSON; of a stream the last object, of an answer that is no JSON {}."""


class Side:
    """A controller with a worker of FastChat's."""

    def __init__(self, controller: str, worker: str) -> None:
        self._controller = controller
        self._worker = worker
        self.answers = {name: self._ask(controller, *step) for name, step in TO_THE_CONTROLLER.items()}

    def ask_at_the_address(self) -> None:
        """What clients ask where they are sent to."""
        address = httpx.post(f"{self._controller}/get_worker_address", json={"model": "m"}, timeout=60).json()[
            "address"
        ]
        self.answers |= {name: self._ask(address, *step) for name, step in TO_THE_ADDRESS.items()}

    def _ask(self, url: str, path: str, body: Body) -> Answer:
        if isinstance(body, dict):
            body = {name: self._worker if value == WORKER else value for name, value in body.items()}
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        response = httpx.post(url + path, content=sent, timeout=60)
        text = response.text.replace(self._worker, WORKER)
        objects = [part for part in text.split("\0") if part]
        try:
            answer = json.loads(objects[-1])
        except ValueError:
            return response.status_code, {}
        return response.status_code, same_but_for(answer, WHO_GAVE_IT) if isinstance(answer, dict) else answer


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
    # Ours is asked where clients are sent to its own address, which is the default.
    old.ask_at_the_address()
    new._controller = late.url
    new.ask_at_the_address()
    return old, new


@pytest.mark.parametrize("step", [*TO_THE_CONTROLLER, *TO_THE_ADDRESS])
def test_an_answer_is_the_same_or_differs_as_the_table_says(sides: tuple[Side, Side], step: str) -> None:
    theirs, ours = (side.answers[step] for side in sides)
    difference = DIFFERENCES.get(step)
    if difference is None:
        assert ours == theirs
        return
    for (status, said), (expected_status, expected) in ((theirs, difference.theirs), (ours, difference.ours)):
        assert status == expected_status, said
        for name, value in expected.items():
            assert fits(said[name], value), said
    if theirs[0] == ours[0] and theirs[1] is not None:
        # What both have said otherwise, or one of them alone, is in the table: all else is the same.
        differing = {*difference.theirs[1], *difference.ours[1]}
        assert same_but_for(theirs[1], differing) == same_but_for(ours[1], differing)


def fits(said: Any, expected: Any) -> bool:
    """Texts have to contain the expected one."""
    return expected in said if isinstance(expected, str) else bool(said == expected)


def same_but_for(answer: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in names}


def test_the_connection_test_is_a_get_of_one_word(sides: tuple[Side, Side]) -> None:
    answers = [httpx.get(f"{side._controller}/test_connection", timeout=60) for side in sides]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, "success")] * 2


def test_the_table_has_no_step_that_is_not_asked() -> None:
    assert DIFFERENCES.keys() <= {*TO_THE_CONTROLLER, *TO_THE_ADDRESS}
