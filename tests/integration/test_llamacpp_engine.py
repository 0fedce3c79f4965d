"""The llama.cpp engine with a real model: what it streams, how it stops, and how it goes on with an answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind, Operation, Usage
from tests.unit.fake_stream import PATIENCE, FakeStream, assignment
from workers_shim import Request, Worker
from workers_shim.engines.llamacpp_tokens import TokenCounter
from workers_shim.execution import EngineExecutor
from workers_shim.served_model import serve

pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (the extra llamacpp)")
from workers_shim.engines import llamacpp

CONTEXT = 1024
COUNT = "1, 2, 3, 4, 5, 6,"
QUESTION = [{"role": "user", "content": "Tell me about gravity in two sentences."}]


@pytest.fixture(scope="module")
def engine() -> llamacpp.LlamaCpp:
    try:
        path = llamacpp.find_default_model()
    except ValueError as error:
        pytest.skip(str(error))
    return llamacpp.LlamaCpp.load(path, slots=2, context_length=CONTEXT)


@pytest.fixture
async def executor(engine: llamacpp.LlamaCpp) -> AsyncIterator[EngineExecutor]:
    executor = EngineExecutor()
    executor.add(
        serve(
            "m",
            engine.generate,
            abilities=["chat", "completion"],
            context_length=CONTEXT,
            resume="prefix",
            shared_loop=False,
        )
    )
    yield executor
    assert await executor.aclose(PATIENCE), "the engine has not come back"


def start(executor: EngineExecutor, *, text: str = "", **body: Any) -> FakeStream:
    operation = Operation.CHAT if "messages" in body else Operation.COMPLETION
    stream = FakeStream()
    executor.start(assignment(body=json.dumps(body).encode(), operation=operation, text=text), stream)
    return stream


async def answer(executor: EngineExecutor, *, text: str = "", **body: Any) -> FakeStream:
    stream = start(executor, text=text, **body)
    await asyncio.to_thread(stream.wait_over)
    assert stream.releases == 1
    return stream


def usage_of(stream: FakeStream) -> Usage:
    word, _, usage = stream.last_words[0]
    assert word == "end"
    assert isinstance(usage, Usage)
    return usage


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


async def test_an_answer_that_moved_goes_on_where_it_was(executor: EngineExecutor) -> None:
    how: dict[str, Any] = {"prompt": COUNT, "temperature": 0, "max_tokens": 24}
    whole = await answer(executor, **how)
    had = "".join(item for item in whole.items[:7] if isinstance(item, str))
    rest = await answer(executor, text=had, **how)

    assert had + rest.text == whole.text
    assert rest.last_words == whole.last_words


async def test_a_chat_that_moved_leaves_the_assistants_turn_open(executor: EngineExecutor) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "Gravity is the"}]
    how: dict[str, Any] = {"temperature": 0, "max_tokens": 20}
    whole = await answer(executor, messages=QUESTION, **how)
    rest = await answer(executor, messages=QUESTION, text="Gravity is the", **how)
    by_the_client = await answer(executor, messages=begun, temperature=0, max_tokens=17)
    moved_again = await answer(executor, messages=begun, text=by_the_client.text[:9], temperature=0, max_tokens=17)

    assert rest.text == by_the_client.text
    assert usage_of(rest) == usage_of(whole)
    assert usage_of(moved_again).prompt_tokens == usage_of(by_the_client).prompt_tokens


async def test_an_answer_that_was_complete_but_for_its_end_ends(executor: EngineExecutor) -> None:
    stream = await answer(executor, prompt=COUNT, max_tokens=3, text=" 7, 8")

    assert stream.items == []
    assert stream.last_words[0][:2] == ("end", "length")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": "word " * 2 * CONTEXT}, "context size"),
        ({"prompt": "a", "n": 2}, "'n' has to be 1"),
        ({"prompt": "a", "max_tokens": 0}, "at least 1"),
        ({"prompt": ["a", "b"]}, "one prompt a request"),
        ({"prompt": "a", "grammar": "root ::= ((("}, "grammar"),
        ({"prompt": "a", "top_k": "many"}, "top_k"),
        ({"messages": [{"role": "user", "content": [{"type": "nonsense"}]}]}, "cannot read the request"),
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
    stranger = TokenCounter(engine.address, "guessed")

    with pytest.raises(RuntimeError, match="401"):
        await asyncio.to_thread(stranger.count, "a")


def test_the_worker_announces_its_context_and_the_files_name(engine: llamacpp.LlamaCpp) -> None:
    worker = Worker()
    llamacpp.register(worker, engine.default_name, engine)

    [card] = worker.models
    assert (card.name, card.context_length) == ("SmolLM2-135M-Instruct.Q4_1", CONTEXT)


@pytest.mark.parametrize(
    ("how", "words"),
    [({"context_length": 8193}, "from 1 to the model's own 8192"), ({"threads": 0}, "threads have to be at least 1")],
)
def test_settings_that_the_model_cannot_have_are_refused(
    engine: llamacpp.LlamaCpp, how: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        llamacpp.LlamaCpp.load(**how)


async def test_the_seed_of_an_answer_that_goes_on_is_not_the_one_that_drew_its_beginning(
    engine: llamacpp.LlamaCpp, monkeypatch: pytest.MonkeyPatch, executor: EngineExecutor
) -> None:
    seeds: list[int] = []
    begin = llamacpp._Generation.__init__

    def note(self: Any, server: Any, request: Any, body: dict[str, Any]) -> None:
        seeds.append(body["seed"])
        begin(self, server, request, body)

    monkeypatch.setattr(llamacpp._Generation, "__init__", note)
    await answer(executor, prompt=COUNT, text=" 7, 8,", seed=2**32 - 2, max_tokens=20)
    await answer(executor, prompt=COUNT, seed=7, max_tokens=1)

    assert 0 <= seeds[0] < 20
    assert seeds[1] == 7


@pytest.mark.parametrize(
    ("body", "mode"),
    [
        ({}, "prefix"),
        ({"logprobs": True}, "prefix"),
        ({"tools": [{"type": "function"}]}, "never"),
        ({"tools": [{"type": "function"}], "temperature": 0}, "replay"),
        ({"response_format": {"type": "json_object"}, "seed": 0}, "replay"),
    ],
)
def test_what_is_more_than_text_is_repeated_only_where_nothing_is_by_chance(body: dict[str, Any], mode: str) -> None:
    parameters = {name: value for name, value in body.items() if name not in ("temperature", "seed")}
    request = Request(model="m", parameters=parameters, temperature=body.get("temperature"), seed=body.get("seed"))
    assert llamacpp.resume_of(request) == mode
