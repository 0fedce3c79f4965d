"""The same requests to another project's controller and to ours, and where the answers may differ.

A difference names its row: the first cell of a row of "What differs, on purpose" in docs/migrating.md, which says why.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

import httpx
from msgspec import Struct

MALFORMED = "a malformed body"
ERROR = "an error's text and `error_code`"
ALLOWED = "`/register_worker` of an address outside the allow-list"
THE_MODEL = "`model` in a call at a worker's address"
WHO_TELLS = "the fleet's `/worker_get_status`"
MORE = "the last object of a stream, where its headers could not say who gave it"
FINISH = "`finish_reason` in the last object of a stream"
WHO_GAVE_IT = frozenset({"worker", "attempts", "queue_time"})
"""Fields that ours may have more, by the row MORE."""
HIGH_TRAFFIC = "NETWORK ERROR DUE TO HIGH TRAFFIC"

WORKER = "<worker>"
"""Stands for the worker's address, which is another one on each side."""
Body = dict[str, Any] | bytes | None
Answer = tuple[int, Any]
"""HTTP status, and the JSON; of a stream the last object, of an answer that is no JSON {}."""


class Difference(Struct, frozen=True):
    """What each side answers to one step: the HTTP status, and the fields that differ. Of texts, what is in them."""

    row: str
    theirs: tuple[int, dict[str, Any]]
    ours: tuple[int, dict[str, Any]]


def malformed(**ours: Any) -> Difference:
    """A body that is not understood: a bare 500 there, 400 and a sentence here."""
    return Difference(MALFORMED, (500, {}), (400, ours))


OF_BOTH = {
    "status": Difference(WHO_TELLS, (200, {}), (200, {"controller": ""})),
    "register: nothing": malformed(detail="has not the right form"),
    "register: no JSON": malformed(detail="is not JSON"),
    "heartbeat: nothing": malformed(detail="has not the right form"),
    "address: nothing": malformed(detail="has not the right form"),
    "register: an address elsewhere": Difference(ALLOWED, (200, {}), (403, {"detail": "may not register"})),
}
"""The differences, by step, that there are to FastChat's controller and to LLaVA's, which it was made from."""


class Side:
    """A controller with a worker, and what it has answered to each step."""

    def __init__(self, controller: str, worker: str) -> None:
        self.controller = controller
        self.answers: dict[str, Answer] = {}
        self._worker = worker

    def ask(self, steps: Mapping[str, tuple[str, Body]], url: str = "") -> None:
        """All steps in order, each a path and what is posted there, at `url` or at the controller."""
        for name, (path, body) in steps.items():
            self.answers[name] = self._ask((url or self.controller) + path, body)

    def _ask(self, url: str, body: Body) -> Answer:
        if isinstance(body, dict):
            body = {name: self._worker if value == WORKER else value for name, value in body.items()}
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        response = httpx.post(url, content=sent, timeout=60)
        text = response.text.replace(self._worker, WORKER)
        objects = [part for part in text.split("\0") if part]
        try:
            answer = json.loads(objects[-1])
        except ValueError:
            return response.status_code, {}
        return response.status_code, same_but_for(answer, WHO_GAVE_IT) if isinstance(answer, dict) else answer


def assert_same(theirs: Answer, ours: Answer, difference: Difference | None) -> None:
    """Two answers to one step are the same, but for what the table says."""
    assert ours != (200, {}), "it is no JSON"
    if difference is None:
        assert ours == theirs
        return
    for (status, said), (expected_status, expected) in ((theirs, difference.theirs), (ours, difference.ours)):
        assert status == expected_status, said
        for name, value in expected.items():
            assert _fits(said[name], value), said
    if theirs[0] == ours[0] and theirs[1] is not None:
        # What both have said otherwise, or one of them alone, is in the table: all else is the same.
        differing = {*difference.theirs[1], *difference.ours[1]}
        assert same_but_for(theirs[1], differing) == same_but_for(ours[1], differing)


def same_but_for(answer: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The answer without some fields."""
    return {name: value for name, value in answer.items() if name not in names}


def _fits(said: Any, expected: Any) -> bool:
    """Texts have to contain the expected one."""
    return expected in said if isinstance(expected, str) else bool(said == expected)
