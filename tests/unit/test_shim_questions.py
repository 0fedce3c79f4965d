"""What a worker answers outside of its slots."""

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from broker_wire.messages import Answered, FailureKind, Question
from tests.waiting import eventually_sync
from workers_shim import Request, RequestError, Unavailable, Worker
from workers_shim.questions import MAX_OPEN, AnswerFunction, QuestionDesk, counting
from workers_shim.served_model import serve


@pytest.fixture
def desk() -> Iterator[QuestionDesk]:
    desk = QuestionDesk()
    yield desk
    assert desk.close(10.0)


def question(number: int = 1, body: bytes = b'{"prompt": "one two"}', remaining: float = 10.0) -> Question:
    return Question("c1", number, "count_tokens", "m", remaining, body)


def ask(desk: QuestionDesk, function: AnswerFunction | None, asked: Question | None = None) -> Answered:
    answers: list[Answered] = []
    desk.ask(asked or question(), function, answers.append)
    eventually_sync(lambda: answers)
    return answers[0]


def test_tokens_are_counted(desk: QuestionDesk) -> None:
    answer = ask(desk, counting(lambda text: len(text.split())), question(7))

    assert (answer.stream, answer.failure) == (7, None)
    assert json.loads(answer.body) == {"count": 2, "error_code": 0}


@pytest.mark.parametrize("body", [b"{}", b'{"prompt": 5}', b"[", b'"\xff"', b"[" * 100_000])
def test_a_body_that_is_no_question_is_its_own_fault(desk: QuestionDesk, body: bytes) -> None:
    assert ask(desk, counting(len), question(body=body)).failure is FailureKind.REQUEST


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RequestError("no"), FailureKind.REQUEST),
        (Unavailable("away"), FailureKind.NOT_SERVED),
        (KeyError("x"), FailureKind.ENGINE),
    ],
)
def test_what_a_function_raises_decides_whether_another_worker_is_asked(
    desk: QuestionDesk, error: Exception, kind: FailureKind
) -> None:
    def fails(_: Question) -> bytes:
        raise error

    answer = ask(desk, fails)
    assert (answer.failure, answer.message) == (kind, str(error))
    assert ask(desk, counting(len)).failure is None


def test_a_count_that_is_none_is_the_functions_fault(desk: QuestionDesk) -> None:
    answer = ask(desk, counting(lambda _: "two"))  # type: ignore[arg-type, return-value]

    assert answer.failure is FailureKind.ENGINE
    assert "count_tokens has to give a number" in answer.message


def test_what_a_worker_does_not_tell_it_says_at_once(desk: QuestionDesk) -> None:
    assert ask(desk, None).failure is FailureKind.NOT_SERVED


def test_several_wait_at_a_time_and_too_many_are_sent_elsewhere(desk: QuestionDesk) -> None:
    go = threading.Event()

    async def waits(question: Question) -> bytes:
        await asyncio.to_thread(go.wait, 10.0)
        return question.body

    answers: list[Answered] = []
    for number in range(MAX_OPEN + 1):
        desk.ask(question(number), waits, answers.append)
    assert [(answer.stream, answer.failure) for answer in answers] == [(MAX_OPEN, FailureKind.NOT_SERVED)]
    go.set()
    eventually_sync(lambda: len(answers) == MAX_OPEN + 1)
    assert {answer.failure for answer in answers[1:]} == {None}
    assert ask(desk, counting(len)).failure is None


def test_a_question_whose_asker_has_given_up_ends(desk: QuestionDesk) -> None:
    async def hangs(_: Question) -> bytes:
        await asyncio.Event().wait()
        return b""

    assert ask(desk, hangs, question(remaining=0.01)).failure is FailureKind.NOT_SERVED


# --- what a card says of it


def generate(_: Request) -> Iterator[str]:
    yield "x"


def test_a_card_tells_what_a_worker_answers() -> None:
    worker = Worker()
    worker.model("counts", count_tokens=len, conversation={"name": "mine"})(generate)
    worker.add_model("does not", generate)

    counts, does_not = worker.models
    assert counts.answers == ("count_tokens",)
    assert json.loads(counts.conversation)["name"] == "mine"
    assert (does_not.answers, does_not.conversation) == ((), b"")


def test_a_conversation_that_is_none_is_refused_with_the_models_name() -> None:
    with pytest.raises(ValueError, match="conversation of model 'm' is not of FastChat's form"):
        serve(
            "m",
            generate,
            abilities=["chat"],
            context_length=None,
            resume="never",
            shared_loop=False,
            conversation={"roles": 5},
        )
