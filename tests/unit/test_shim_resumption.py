"""How an answer goes on that another worker began: what the engine does, what the client wishes, what it has."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind, Had, ResumeMode
from tests.unit.engine_runs import answer, had_after, yields
from tests.unit.fake_stream import PATIENCE, assignment
from workers_shim.execution import EngineExecutor
from workers_shim.request import Chunk, Request, Usage
from workers_shim.stream import Assignment


@pytest.fixture
async def executor() -> AsyncIterator[EngineExecutor]:
    executor = EngineExecutor()
    yield executor
    assert await executor.aclose(PATIENCE), "an engine has not come back"


@pytest.mark.parametrize("shared", [False, True])
async def test_a_repeated_answer_goes_on_where_the_client_stopped(executor: EngineExecutor, shared: bool) -> None:
    async def generate(request: Request) -> AsyncIterator[str | Chunk]:
        assert request.resume_text == ""
        for piece in ("Hel", "lo ", "wörld", "!"):
            yield piece
        yield Chunk(usage=Usage(1, 4))

    stream = await answer(
        executor, generate, resume="replay", shared_loop=shared, given=assignment(text="Hello w", next_seq=4)
    )

    assert stream.items == ["örld", "!"]
    assert stream.last_words == [("end", "stop", Usage(1, 4))]


@pytest.mark.parametrize("pieces", [["Hel", "p"], ["Hello"]])
async def test_a_repeated_answer_that_differs_ends_as_an_error(executor: EngineExecutor, pieces: list[str]) -> None:
    stream = await answer(executor, yields(pieces), resume="replay", given=assignment(text="Hello world"))

    assert stream.failure[0] is FailureKind.DIVERGED
    assert not stream.items


async def test_an_engine_that_goes_on_by_itself_gets_the_text(executor: EngineExecutor) -> None:
    stream = await answer(
        executor, lambda request: iter([request.resume_text[::-1]]), resume="prefix", given=assignment(text="abc")
    )

    assert stream.items == ["cba"]


@pytest.mark.parametrize(("text", "next_seq"), [("abc", 3), ("", 3)])
async def test_an_engine_that_cannot_go_on_says_so(executor: EngineExecutor, text: str, next_seq: int) -> None:
    resume = "never" if text else "prefix"
    stream = await answer(executor, yields("abc"), resume=resume, given=assignment(text=text, next_seq=next_seq))

    assert stream.failure[0] is FailureKind.NOT_RESUMABLE


MORE_THAN_TEXT = {
    "another choice": Had(1, "b"),
    "foreign chunks": Had(0, chunks=1, digest=b"d"),
    "the end of the choice": Had(0, ended=True),
}


@pytest.mark.parametrize("had", MORE_THAN_TEXT.values(), ids=MORE_THAN_TEXT.keys())
async def test_an_engine_that_goes_on_after_a_text_says_so_where_the_client_has_more(
    executor: EngineExecutor, had: Had
) -> None:
    stream = await answer(executor, yields("abc"), resume="prefix", given=assignment(text="a", choices=(had,)))

    assert stream.failure == (
        FailureKind.NOT_RESUMABLE,
        "model 'm' goes on from a text, and the client has more than the text of one answer",
    )


def payload(text: str) -> Chunk:
    return Chunk(payload=json.dumps({"choices": [{"index": 0, "delta": {"reasoning_content": text}}]}).encode())


def client_that_has(*items: str | Chunk) -> Assignment:
    had = had_after(items)
    return assignment(text=had.text, choices=had.choices, next_seq=had.next_seq)


@pytest.mark.parametrize(
    "chunks",
    [
        [payload("Let me "), payload("see."), "It is ", "four."],
        [Chunk("a"), Chunk("b", index=1), Chunk("c", index=1), "d"],
    ],
    ids=["reasoning", "two choices"],
)
async def test_an_engine_that_can_do_both_repeats_what_is_more_than_text_and_goes_on_after_the_rest(
    executor: EngineExecutor, chunks: list[str | Chunk]
) -> None:
    seen = []

    def generate(request: Request) -> Iterator[str | Chunk]:
        seen.append(request.resume_text)
        yield from chunks

    both = ("prefix", "replay")
    repeated = await answer(executor, generate, resume=both, given=client_that_has(*chunks[:2]))
    went_on = await answer(executor, generate, resume=both, given=client_that_has("It is "))

    assert repeated.items == chunks[2:]
    assert seen == ["", "It is "]
    assert went_on.last_words[0][0] == "end"


@pytest.mark.parametrize("declared", ["never", "prefix", "replay", ("prefix", "replay")])
async def test_a_client_that_asks_for_a_repetition_gets_one_whatever_the_model_is_declared_to_do(
    executor: EngineExecutor, declared: Any
) -> None:
    def generate(request: Request) -> Iterator[str]:
        assert request.resume_text == ""
        yield from ("Hel", "lo")

    asked = assignment(text="Hell", resume=ResumeMode.REPLAY)
    other = assignment(text="Help", resume=ResumeMode.REPLAY)

    assert (await answer(executor, generate, resume=declared, given=asked)).items == ["o"]
    assert (await answer(executor, generate, resume=declared, given=other)).failure[0] is FailureKind.DIVERGED


@pytest.mark.parametrize(
    ("declared", "goes_on"), [("never", False), ("replay", False), ("prefix", True), (("replay", "prefix"), True)]
)
async def test_a_client_that_asks_for_a_prefix_gets_it_only_where_the_engine_can(
    executor: EngineExecutor, declared: Any, goes_on: bool
) -> None:
    given = assignment(text="abc", resume=ResumeMode.PREFIX)
    stream = await answer(executor, lambda request: iter([request.resume_text]), resume=declared, given=given)

    if goes_on:
        assert stream.items == ["abc"]
    else:
        assert stream.failure == (
            FailureKind.NOT_RESUMABLE,
            "model 'm' cannot go on from a text, as X-Resume asks for",
        )
