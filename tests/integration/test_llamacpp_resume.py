"""The llama.cpp engine with a real model goes on with an answer that another worker began."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.integration.llamacpp_runs import COUNT, QUESTION, answer, load_engine, serving, usage_of
from tests.unit.engine_runs import had_after
from workers_shim import Chunk, Request
from workers_shim.engines import llamacpp
from workers_shim.engines.llamacpp_generation import Generation
from workers_shim.engines.llamacpp_request import RANDOM_SEED
from workers_shim.execution import EngineExecutor

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "story": {"type": "string"}},
    "required": ["title", "story"],
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SHAPED: dict[str, dict[str, Any]] = {
    "JSON schema": {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    "JSON object": {"response_format": {"type": "json_object"}},
    "tools": {"tools": [WEATHER]},
    "grammar": {"grammar": 'root ::= ("yes" | "no" | " ")+'},
    "schema and logprobs": {
        "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        "logprobs": True,
        "top_logprobs": 2,
    },
}


@pytest.fixture(scope="module")
def engine() -> llamacpp.LlamaCpp:
    return load_engine()


@pytest.fixture
async def executor(engine: llamacpp.LlamaCpp) -> AsyncIterator[EngineExecutor]:
    async with serving(engine) as executor:
        yield executor


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What llama.cpp is told to draw by, request after request."""
    seeds: list[int] = []
    begin = Generation.__init__

    def note(self: Generation, server: Any, request: Request, body: dict[str, Any]) -> None:
        seeds.append(body["seed"])
        begin(self, server, request, body)

    monkeypatch.setattr(Generation, "__init__", note)
    return seeds


async def test_an_answer_that_moved_goes_on_where_it_was(executor: EngineExecutor) -> None:
    how: dict[str, Any] = {"prompt": COUNT, "temperature": 0, "max_tokens": 24}
    whole = await answer(executor, **how)
    had = had_after(whole.items[:7])
    rest = await answer(executor, had=had, **how)

    assert had.text + rest.text == whole.text
    assert rest.last_words == whole.last_words


async def test_a_chat_that_moved_leaves_the_assistants_turn_open(executor: EngineExecutor) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "Gravity is the"}]
    how: dict[str, Any] = {"temperature": 0, "max_tokens": 20}
    whole = await answer(executor, messages=QUESTION, **how)
    rest = await answer(executor, messages=QUESTION, had=had_after(["Gravity is the"]), **how)
    by_the_client = await answer(executor, messages=begun, temperature=0, max_tokens=17)
    moved_again = await answer(
        executor, messages=begun, had=had_after([by_the_client.text[:9]]), temperature=0, max_tokens=17
    )

    assert rest.text == by_the_client.text
    assert usage_of(rest) == usage_of(whole)
    assert usage_of(moved_again).prompt_tokens == usage_of(by_the_client).prompt_tokens


@pytest.mark.parametrize("question", [{"prompt": COUNT}, {"messages": QUESTION}], ids=["completion", "chat"])
async def test_an_answer_that_was_complete_but_for_its_end_ends_with_the_same_counts(
    executor: EngineExecutor, question: dict[str, Any]
) -> None:
    how = question | {"temperature": 0, "max_tokens": 5}
    whole = await answer(executor, **how)
    rest = await answer(executor, had=had_after(whole.items), **how)

    assert rest.items == []
    assert rest.last_words == whole.last_words
    assert whole.last_words[0][:2] == ("end", "length")
    assert usage_of(whole).completion_tokens == 5


@pytest.mark.parametrize("shape", SHAPED.values(), ids=SHAPED.keys())
async def test_a_shaped_answer_without_a_seed_is_repeated_and_goes_on_where_it_was(
    executor: EngineExecutor, shape: dict[str, Any]
) -> None:
    how: dict[str, Any] = {"messages": QUESTION, "max_tokens": 30} | shape
    whole = await answer(executor, **how)
    assert len(whole.items) > 4
    first = whole.items[: len(whole.items) // 2]
    rest = await answer(executor, had=had_after(first), **how)

    assert [_comparable(item) for item in [*first, *rest.items]] == [_comparable(item) for item in whole.items]
    assert rest.last_words == whole.last_words


def _comparable(item: str | Chunk) -> object:
    """Tool calls have an id of their own each time."""
    if isinstance(item, str) or item.payload is None:
        return item
    choices: list[dict[str, Any]] = msgspec.json.decode(item.payload)["choices"]
    for choice in choices:
        for call in choice["delta"].get("tool_calls", ()):
            call.pop("id", None)
    return choices


async def test_an_answer_with_more_than_text_is_repeated_by_the_seed_of_its_beginning(
    executor: EngineExecutor, seeds: list[int]
) -> None:
    had = had_after([Chunk(payload=b'{"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]}')])
    await answer(executor, prompt=COUNT, max_tokens=2)
    await answer(executor, prompt=COUNT, max_tokens=2, had=had)

    assert seeds[0] == seeds[1]


async def test_the_seed_of_a_text_that_goes_on_is_not_the_one_that_drew_its_beginning(
    executor: EngineExecutor, seeds: list[int]
) -> None:
    begun = had_after([" 7, 8,"])
    await answer(executor, prompt=COUNT, had=begun, seed=2**32 - 2, max_tokens=20)
    await answer(executor, prompt=COUNT, seed=7, max_tokens=1)
    await answer(executor, prompt=COUNT, max_tokens=20)
    await answer(executor, prompt=COUNT, had=begun, max_tokens=20)

    wrapped, clients_own, drawn_by_itself, went_on = seeds
    assert 0 <= wrapped < 20
    assert clients_own == 7
    assert 0 < went_on - drawn_by_itself < 20


@pytest.mark.parametrize("seed", [None, -1, 2**32 - 1])
async def test_a_seed_that_means_any_is_the_same_at_every_attempt(
    executor: EngineExecutor, seeds: list[int], seed: int | None
) -> None:
    for _ in range(2):
        await answer(executor, prompt=COUNT, max_tokens=1, seed=seed)

    assert seeds[0] == seeds[1] != RANDOM_SEED


@pytest.mark.parametrize(
    ("parameters", "ways"),
    [
        ({}, ["prefix", "replay"]),
        ({"logprobs": True}, ["prefix", "replay"]),
        ({"n": 1}, ["prefix", "replay"]),
        ({"n": 2}, ["replay"]),
        ({"tools": [{"type": "function"}]}, ["replay"]),
        ({"response_format": {"type": "json_object"}}, ["replay"]),
    ],
)
def test_text_goes_on_from_what_is_there_and_what_is_more_than_text_is_repeated(
    parameters: dict[str, Any], ways: list[str]
) -> None:
    assert llamacpp.resume_of(Request(model="m", parameters=parameters)) == ways
