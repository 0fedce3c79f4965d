"""Whom a controller asks about a model, and what it makes of the answers. The broker and the workers are played."""

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from broker_controller import questions
from broker_controller.errors import (
    BrokerUnavailableError,
    DeadlineError,
    EngineError,
    EngineRefusedError,
    ModelNotFoundError,
    NotToldError,
    OverloadedError,
    ServiceError,
    WorkerNotFoundError,
)
from broker_controller.questions import Questions
from broker_controller.registry import Registry
from broker_wire.amqp.channel import Outcome
from broker_wire.messages import Announce, Answered, FailureKind, ModelCard, Question, QuestionKind
from broker_wire.topology import Topology

COUNTS = ModelCard("m", answers=("count_tokens", "of a later version"))
ALL = ModelCard("m", answers=tuple(QuestionKind))
TELLS = ModelCard("m", context_length=99, conversation=b'{"name":"mine"}')
BODY = b'{"model": "m", "prompt": "p"}'


class Scene:
    """A controller's questions, and workers that answer as the test says; one that is not named never does."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[Question], Answered | Outcome]] = {}
        self.held = 0
        self.up = True
        self._number = 0
        links: Any = SimpleNamespace(topology=Topology(), send_control=self._send, up=True)
        door: Any = SimpleNamespace(check=lambda _: None, broker_unavailable=lambda: BrokerUnavailableError("away"))
        self.links = links
        inflight: Any = SimpleNamespace(add=self._hold)
        self.questions = Questions(
            "c1",
            links,
            self.registry,
            door=door,
            inflight=inflight,
            watched=lambda: 0.0,
            next_number=self._next,
        )

    def worker(self, name: str, card: ModelCard) -> None:
        self.registry.apply_announce(Announce(name, f"i-{name}", models=(card,)), 0.0)

    def tells(self, name: str, body: bytes) -> None:
        self.answers[name] = lambda question: Answered(question.stream, body)

    def fails(self, name: str, kind: FailureKind) -> None:
        self.answers[name] = lambda question: Answered(question.stream, failure=kind, message="no")

    async def count(self, worker: str | None = None) -> Any:
        return json.loads(await self.questions.ask(QuestionKind.COUNT_TOKENS, "m", BODY, worker))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _hold(self, size: int) -> None:
        self.held += size

    def _send(self, key: str, question: Question, on_outcome: Callable[[Outcome], None]) -> None:
        assert question.body == BODY
        assert self.held == len(BODY)
        name = key.removeprefix("instance.i-")
        self.asked.append(name)
        if name in self.answers:
            answer = self.answers[name](question)
            if isinstance(answer, Answered):
                asyncio.get_running_loop().call_soon(self.questions.on_answer, answer)
            else:
                on_outcome(answer)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(questions, "ANSWER_TIME", 0.02)
    return Scene()


async def test_what_a_worker_has_announced_needs_no_question(scene: Scene) -> None:
    scene.worker("w1", TELLS)
    scene.worker("w2", ALL)

    assert json.loads(await scene.questions.ask(QuestionKind.CONTEXT_LENGTH, "m", BODY)) == {"context_length": 99}
    assert json.loads(await scene.questions.ask(QuestionKind.CONVERSATION, "m", BODY)) == {"conv": {"name": "mine"}}
    assert scene.asked == []


async def test_only_those_are_asked_that_say_that_they_answer(scene: Scene) -> None:
    scene.worker("w1", TELLS)
    scene.worker("w2", COUNTS)
    scene.tells("w2", b'{"count": 5}')

    assert await scene.count() == {"count": 5}
    assert scene.asked == ["w2"]


@pytest.mark.parametrize("failure", [FailureKind.ENGINE, FailureKind.NOT_SERVED, Outcome.RETURNED, "silence"])
async def test_where_one_does_not_answer_another_is_asked(scene: Scene, failure: object) -> None:
    for name in ("w1", "w2"):
        scene.worker(name, COUNTS)

    def answer(question: Question) -> Answered | Outcome:
        if len(scene.asked) > 1:
            return Answered(question.stream, b'{"count": 5}')
        if isinstance(failure, FailureKind):
            return Answered(question.stream, failure=failure)
        # An answer to nobody's question is what silence comes to.
        return failure if isinstance(failure, Outcome) else Answered(99)

    scene.answers = dict.fromkeys(("w1", "w2"), answer)
    assert await scene.count() == {"count": 5}
    assert sorted(scene.asked) == ["w1", "w2"]
    assert scene.held == 0


async def test_a_question_that_is_at_fault_itself_is_asked_once(scene: Scene) -> None:
    for name in ("w1", "w2"):
        scene.worker(name, COUNTS)
        scene.fails(name, FailureKind.REQUEST)

    with pytest.raises(EngineRefusedError, match="says: no"):
        await scene.count()
    assert len(scene.asked) == 1


@pytest.mark.parametrize(("answers", "error"), [(False, DeadlineError), (True, EngineError)])
async def test_two_are_asked_and_no_more(scene: Scene, answers: bool, error: type[ServiceError]) -> None:
    for name in ("w1", "w2", "w3"):
        scene.worker(name, COUNTS)
        if answers:
            scene.fails(name, FailureKind.ENGINE)

    with pytest.raises(error):
        await scene.count()
    assert len(scene.asked) == 2
    assert scene.held == 0


async def test_a_worker_that_is_named_is_the_only_one_that_is_asked(scene: Scene) -> None:
    for name in ("w1", "w2"):
        scene.worker(name, COUNTS)
        scene.tells(name, json.dumps(name).encode())

    assert [await scene.count("w2") for _ in range(5)] == ["w2"] * 5
    with pytest.raises(WorkerNotFoundError):
        await scene.count("w9")


async def test_what_nobody_can_tell_is_an_error_and_no_guess(scene: Scene) -> None:
    scene.worker("w1", ModelCard("m"))

    with pytest.raises(NotToldError, match="count tokens"):
        await scene.count()
    with pytest.raises(NotToldError, match="conversation template"):
        await scene.questions.ask(QuestionKind.CONVERSATION, "m", BODY)
    with pytest.raises(ModelNotFoundError, match="served now: m"):
        await scene.questions.ask(QuestionKind.CONVERSATION, "another", BODY)


async def test_a_context_length_that_nobody_knows_is_null_as_fastchats_workers_say(scene: Scene) -> None:
    scene.worker("w1", ModelCard("m"))

    assert json.loads(await scene.questions.ask(QuestionKind.CONTEXT_LENGTH, "m", BODY)) == {"context_length": None}


async def test_nobody_is_asked_without_a_connection(scene: Scene) -> None:
    scene.worker("w1", COUNTS)
    scene.links.up = False

    with pytest.raises(BrokerUnavailableError):
        await scene.count()


async def test_so_many_are_asked_at_a_time_and_no_more(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "ANSWER_TIME", 30.0)
    monkeypatch.setattr(questions, "MAX_OPEN", 1)
    scene.worker("w1", COUNTS)
    waiting = asyncio.create_task(scene.count())
    await asyncio.sleep(0)

    scene.held -= len(BODY)  # of the one that waits
    with pytest.raises(OverloadedError):
        await scene.count()
    waiting.cancel()
