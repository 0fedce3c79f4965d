"""A worker's models are those of the HTTP worker behind it, as far as that can be told."""

from collections.abc import Callable

import pytest

from workers_shim import Worker
from workers_shim.engines.http.address import parse_address
from workers_shim.engines.http.old_worker import OldWorker, OldWorkerError, UnreachableError
from workers_shim.engines.http.watch import MAX_MISSES, Watch

Say = Callable[[object], None]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Say:
    """Sets what the HTTP worker answers to every question: a status, or an exception."""
    said: list[object] = []

    async def ask(*_: object) -> object:
        if isinstance(said[-1], Exception):
            raise said[-1]
        return said[-1]

    monkeypatch.setattr(OldWorker, "ask", ask)
    return said.append


@pytest.fixture
def worker() -> Worker:
    """It is not started: models come and go all the same."""
    return Worker()


@pytest.fixture
def watch(worker: Worker, say: Say) -> Watch:
    watch = Watch(worker, parse_address("http://localhost:1"))
    say({"model_names": ["a"], "speed": 2})
    watch.wait_for_worker()
    assert watch.begin().speed == 2.0
    return watch


def served(worker: Worker) -> set[str]:
    return {card.name for card in worker.models}


def test_models_follow_those_of_the_http_worker(worker: Worker, watch: Watch, say: Say) -> None:
    assert served(worker) == {"a"}

    say({"model_names": ["b", "c"]})
    watch._look()

    assert served(worker) == {"b", "c"}


def test_one_that_cannot_be_reached_is_away_at_once(worker: Worker, watch: Watch, say: Say) -> None:
    say(UnreachableError("refused"))
    watch._look()

    assert served(worker) == set()


@pytest.mark.parametrize("answer", [OldWorkerError("HTTP 500"), TimeoutError(), {"no": "status"}])
def test_one_that_gives_no_status_is_away_after_some_looks(
    worker: Worker, watch: Watch, say: Say, answer: object
) -> None:
    say(answer)
    for _ in range(MAX_MISSES - 1):
        watch._look()
    assert served(worker) == {"a"}

    watch._look()
    assert served(worker) == set()

    say({"model_names": ["a"]})
    watch._look()
    assert served(worker) == {"a"}


@pytest.mark.parametrize("answer", [UnreachableError("cannot be reached"), {"no": "status"}])
def test_one_that_does_not_answer_is_not_begun_with(worker: Worker, say: Say, answer: object) -> None:
    say(answer)

    with pytest.raises(ValueError, match=r"cannot be reached|gives no status"):
        Watch(worker, parse_address("http://localhost:1")).begin()


def test_misses_in_between_do_not_add_up(worker: Worker, watch: Watch, say: Say) -> None:
    for _ in range(MAX_MISSES):
        say(TimeoutError())
        watch._look()
        say({"model_names": ["a"]})
        watch._look()
    say(TimeoutError())
    watch._look()

    assert served(worker) == {"a"}


def test_a_model_that_is_wanted_and_not_there_is_said(worker: Worker, say: Say) -> None:
    say({"model_names": ["a", "b"]})

    with pytest.raises(ValueError, match="serves a, b, which is not what --model asks for: a, x"):
        Watch(worker, parse_address("http://localhost:1"), ["a", "x"]).begin()
