"""The llama.cpp engine with a real model: what it streams, and how it stops."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind
from tests.integration.llamacpp_runs import (
    CONTEXT,
    COUNT,
    QUESTION,
    answer,
    load_engine,
    serving,
    start,
    usage_of,
)
from tests.processes import Processes
from workers_shim import Worker
from workers_shim.engines import llamacpp
from workers_shim.engines.llamacpp_text import LlamaCppText
from workers_shim.execution import EngineExecutor


@pytest.fixture(scope="module")
def engine() -> llamacpp.LlamaCpp:
    return load_engine()


@pytest.fixture
async def executor(engine: llamacpp.LlamaCpp) -> AsyncIterator[EngineExecutor]:
    async with serving(engine) as executor:
        yield executor


async def test_a_chat_goes_through_the_models_own_template(executor: EngineExecutor) -> None:
    chat = await answer(executor, messages=QUESTION, temperature=0, max_tokens=12)
    rendered = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    rendered += f"<|im_start|>user\n{QUESTION[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    prompt = await answer(executor, prompt=rendered, temperature=0, max_tokens=12)

    assert "ravity" in chat.text
    assert chat.text == prompt.text
    assert usage_of(chat) == usage_of(prompt)
    assert chat.last_words[0][1] == "length"
    assert usage_of(chat).completion_tokens == 12


async def test_a_prompt_is_completed_as_it_is(executor: EngineExecutor) -> None:
    stream = await answer(executor, prompt=COUNT, temperature=0, max_tokens=6)

    assert stream.text.startswith(" 7, 8")


async def test_text_comes_token_by_token_while_it_is_generated(executor: EngineExecutor) -> None:
    stream = start(executor, prompt=COUNT, max_tokens=400, ignore_eos=True)
    await asyncio.to_thread(stream.wait_for_items, 5)

    assert not stream.over.is_set()
    stream.cancel()
    await asyncio.to_thread(stream.wait_over)


async def test_an_answer_ends_before_a_stop_string(executor: EngineExecutor) -> None:
    stream = await answer(executor, prompt=COUNT, temperature=0, max_tokens=50, stop=["10", "nothing like it"])

    assert stream.text == " 7, 8, 9, "
    assert stream.last_words[0][1] == "stop"


async def test_the_models_own_end_is_a_stop(executor: EngineExecutor) -> None:
    question = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    stream = await answer(executor, messages=question, temperature=0, max_tokens=200)

    assert "Paris" in stream.text
    assert stream.last_words[0][1] == "stop"
    assert "<|im_end|>" not in stream.text


async def test_the_seed_decides_what_is_drawn(executor: EngineExecutor) -> None:
    how: dict[str, Any] = {"messages": QUESTION, "temperature": 1.5, "max_tokens": 20}
    first = await answer(executor, seed=1, **how)
    again = await answer(executor, seed=1, **how)
    other = await answer(executor, seed=2, **how)

    assert first.text == again.text
    assert first.text != other.text


async def test_sampling_parameters_reach_llama_cpp(executor: EngineExecutor) -> None:
    how: dict[str, Any] = {"messages": QUESTION, "max_tokens": 20}
    greedy = await answer(executor, temperature=0, **how)
    narrow = await answer(executor, temperature=1.5, top_k=1, seed=3, **how)
    penalised = await answer(executor, temperature=0, repetition_penalty=1.9, **how)

    assert narrow.text == greedy.text
    assert penalised.text != greedy.text


async def test_the_answer_keeps_to_a_schema(executor: EngineExecutor) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "maxProperties": 1}
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    stream = await answer(executor, messages=QUESTION, temperature=0, max_tokens=40, response_format=wanted)

    assert list(json.loads(stream.text)) == ["n"]


async def test_without_a_limit_the_answer_ends_where_the_context_ends(executor: EngineExecutor) -> None:
    stream = await answer(executor, prompt="word " * (CONTEXT - 50), ignore_eos=True)

    assert stream.last_words[0][1] == "length"
    usage = usage_of(stream)
    assert CONTEXT - 5 <= usage.prompt_tokens + usage.completion_tokens <= CONTEXT


async def test_logprobs_come_with_their_tokens(executor: EngineExecutor) -> None:
    stream = await answer(executor, messages=QUESTION, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2)

    assert len(stream.items) == 3
    for item in stream.items:
        assert not isinstance(item, str)
        [token] = json.loads(item.logprobs)["content"]
        assert token["token"] == item.text
        assert len(token["top_logprobs"]) == 2


async def test_a_cancel_stops_it_within_a_token_and_frees_its_slot(executor: EngineExecutor) -> None:
    # More than the model's own slots, so that a slot that stayed taken would be missed.
    for _ in range(4):
        stream = start(executor, prompt=COUNT, max_tokens=900, ignore_eos=True)
        await asyncio.to_thread(stream.wait_for_items, 3)
        stream.cancel()
        await asyncio.to_thread(stream.wait_over)

    both = [start(executor, prompt=COUNT, max_tokens=8) for _ in range(2)]
    for stream in both:
        await asyncio.to_thread(stream.wait_over)
        assert usage_of(stream).completion_tokens == 8


async def test_a_cancel_is_noticed_in_the_middle_of_a_long_prompt(executor: EngineExecutor) -> None:
    stream = start(executor, prompt="word " * (CONTEXT - 100), max_tokens=8)
    while stream.progress_calls < 2 and not stream.over.is_set():
        await asyncio.to_thread(stream.over.wait, 0.01)

    stream.cancel()
    await asyncio.to_thread(stream.wait_over)

    assert stream.items == []


async def test_as_many_run_at_once_as_there_are_slots(executor: EngineExecutor) -> None:
    streams = [start(executor, prompt=COUNT, max_tokens=400, ignore_eos=True) for _ in range(2)]
    for stream in streams:
        await asyncio.to_thread(stream.wait_for_items, 5)

    assert not any(stream.over.is_set() for stream in streams)
    for stream in streams:
        stream.cancel()
        await asyncio.to_thread(stream.wait_over)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": "word " * 2 * CONTEXT}, "context size"),
        ({"prompt": "a", "n": 0}, "'n' has to be a whole number from 1 to 16"),
        ({"prompt": "a", "n": 1000}, "'n' has to be a whole number from 1 to 16"),
        ({"prompt": "a", "max_tokens": 0}, "at least 1"),
        ({"prompt": [1, 2]}, "not as token numbers"),
        ({"prompt": "a", "grammar": "root ::= ((("}, "grammar"),
        ({"prompt": "a", "top_k": "many"}, "top_k"),
        ({"messages": [{"role": "user", "content": [{"type": "nonsense"}]}]}, "a text or an image_url"),
        ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "cannot read the request"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "images"),
    ],
)
async def test_a_request_that_cannot_be_served_hears_why(
    executor: EngineExecutor, body: dict[str, Any], words: str
) -> None:
    stream = await answer(executor, **{"max_tokens": 5} | body)

    kind, message = stream.failure
    assert kind is FailureKind.REQUEST
    assert words in message


async def test_nothing_but_ours_gets_into_its_http_port(engine: llamacpp.LlamaCpp) -> None:
    stranger = LlamaCppText(engine.address, "guessed")

    with pytest.raises(RuntimeError, match="401"):
        await asyncio.to_thread(stranger.count, "a")


def test_the_worker_announces_its_context_and_the_files_name(engine: llamacpp.LlamaCpp) -> None:
    worker = Worker()
    llamacpp.register(worker, engine.default_name, engine)

    [card] = worker.models
    assert (card.name, card.context_length) == ("SmolLM2-135M-Instruct.Q4_1", CONTEXT)
    assert card.answers == ("count_tokens",)
    conversation = json.loads(card.conversation)
    assert conversation["roles"] == ["<|im_start|>user\n", "<|im_start|>assistant\n"]
    assert "SmolLM" in conversation["system_message"]


async def test_a_prompt_has_as_many_tokens_as_its_completion_says(
    engine: llamacpp.LlamaCpp, executor: EngineExecutor
) -> None:
    prompt = "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n"
    stream = await answer(executor, prompt=prompt, max_tokens=1)

    assert await asyncio.to_thread(engine.count_tokens, prompt) == usage_of(stream).prompt_tokens


@pytest.mark.parametrize(
    ("how", "words"),
    [({"context_length": 8193}, "from 1 to the model's own 8192"), ({"threads": 0}, "threads have to be at least 1")],
)
def test_settings_that_the_model_cannot_have_are_refused(
    engine: llamacpp.LlamaCpp, how: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        llamacpp.LlamaCpp.load(**how)


def test_a_model_may_be_let_go_as_soon_as_it_is_loaded(processes: Processes) -> None:
    """llama.cpp's loop, told to end before it has begun, went on for ever; on a busy machine it did so each time."""
    script = "from tests.integration.llamacpp_runs import load_engine\nfor _ in range(4): load_engine()"
    started = [processes.start("python", "-c", script) for _ in range(3)]

    assert [process.wait() for process in started] == [0, 0, 0]
