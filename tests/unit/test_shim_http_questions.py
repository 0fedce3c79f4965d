"""Questions about a model of an old HTTP worker: its own answers, by its own names."""

import json
from typing import Any, cast

import pytest

from broker_wire.messages import Question
from workers_shim import RequestError, Unavailable
from workers_shim.engines.http.old_worker import (
    BrokenOffError,
    NotThereError,
    OldWorker,
    OldWorkerError,
    RefusedError,
    UnreachableError,
)
from workers_shim.engines.http.questions import answers_of

BODY = b'{"model": "ours", "prompt":  "p"}'


class WorkerDouble:
    """Answers with what it was asked, or raises."""

    def __init__(self, error: OldWorkerError | None = None) -> None:
        self.error = error

    async def pass_on(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        if self.error is not None:
            raise self.error
        assert headers == {"X-Controller-Hops": "3"}
        return json.dumps([path, body.decode()]).encode()


async def ask(body: bytes, kind: str = "count_tokens", error: OldWorkerError | None = None, **names: str) -> Any:
    answers = answers_of(cast("OldWorker", WorkerDouble(error)), names)
    return json.loads(await answers[kind](Question("c1", 1, kind, "ours", 4.0, body, hops=2)))


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("count_tokens", "/count_token"),
        ("context_length", "/model_details"),
        ("conversation", "/worker_get_conv_template"),
    ],
)
async def test_a_question_is_passed_on_byte_for_byte(kind: str, path: str) -> None:
    assert await ask(BODY, kind) == [path, BODY.decode()]


async def test_a_model_of_another_name_is_asked_for_by_the_workers_own() -> None:
    _, passed = await ask(BODY, ours="theirs")
    assert json.loads(passed) == {"model": "theirs", "prompt": "p"}
    assert (await ask(BODY, another="theirs"))[1] == BODY.decode()


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"model": 5}', b"\xff", b"{"])
async def test_a_question_without_a_model_is_its_own_fault(body: bytes) -> None:
    with pytest.raises(RequestError):
        await ask(body, ours="theirs")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UnreachableError("x"), Unavailable),
        (NotThereError("x"), RequestError),
        (RefusedError("x"), RequestError),
        (BrokenOffError("x"), RuntimeError),
        (OldWorkerError("x"), RuntimeError),
    ],
)
async def test_what_the_worker_does_decides_whether_another_one_is_asked(
    error: OldWorkerError, told: type[Exception]
) -> None:
    with pytest.raises(told, match="x"):
        await ask(BODY, error=error)
