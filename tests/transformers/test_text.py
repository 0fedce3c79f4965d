"""A language model: what it streams, how it stops, and how it goes on."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from broker_wire.messages import FailureKind
from tests.transformers.checkpoints import CONTEXT, WORDS
from tests.transformers.runs import answer, chat_about, end_of, serving, start
from tests.unit.fake_stream import PATIENCE
from workers_shim import Worker
from workers_shim.engines import transformers as engine_module
from workers_shim.engines import transformers_generation
from workers_shim.engines.transformers import Transformers
from workers_shim.execution import EngineExecutor

PROMPT = "w1 w2 w3"
QUESTION = [{"role": "user", "content": "w4 w5"}]


@pytest.fixture(scope="module")
def engine(language_model: Path) -> Transformers:
    return Transformers.load(str(language_model), device="cpu")


@pytest.fixture
async def executor(engine: Transformers) -> AsyncIterator[EngineExecutor]:
    async with serving(engine) as executor:
        yield executor


async def test_a_prompt_is_completed_token_by_token(executor: EngineExecutor) -> None:
    stream = await answer(executor, prompt=PROMPT, temperature=0, max_tokens=12)

    assert len(stream.text.split()) == len(stream.items) == 12
    assert stream.text.startswith(" w")
    reason, usage = end_of(stream)
    assert (reason, usage.prompt_tokens, usage.completion_tokens) == ("length", 3, 12)


async def test_a_chat_goes_through_the_template(executor: EngineExecutor) -> None:
    chat = await answer(executor, messages=QUESTION, temperature=0, max_tokens=8)
    rendered = await answer(executor, prompt="<s><|user|>w4 w5<|assistant|>", temperature=0, max_tokens=8)
    bare = await answer(executor, prompt="w4 w5", temperature=0, max_tokens=8)

    assert chat.text == rendered.text != bare.text
    assert end_of(chat) == end_of(rendered)


async def test_a_last_message_of_the_assistant_is_gone_on_with(executor: EngineExecutor) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "w6 w7"}]
    chat = await answer(executor, messages=begun, temperature=0, max_tokens=8)
    rendered = await answer(executor, prompt="<s><|user|>w4 w5<|assistant|>w6 w7", temperature=0, max_tokens=8)

    assert chat.text == rendered.text


async def test_a_content_of_several_texts_is_one(executor: EngineExecutor) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "w4 "}, {"type": "text", "text": "w5"}]}]
    chat = await answer(executor, messages=parts, temperature=0, max_tokens=8)
    plain = await answer(executor, messages=QUESTION, temperature=0, max_tokens=8)

    assert chat.text == plain.text


async def test_an_answer_ends_before_a_stop_string_across_tokens(executor: EngineExecutor) -> None:
    whole = (await answer(executor, prompt=PROMPT, temperature=0, max_tokens=12)).text
    words = whole.split()
    # From the middle of a token to the middle of the one after the next.
    stop = f"{words[5][1:]} {words[6]} w"
    stream = await answer(executor, prompt=PROMPT, temperature=0, max_tokens=12, stop=["nothing", stop])

    assert stream.text == whole[: whole.index(stop)]
    reason, usage = end_of(stream)
    assert (reason, usage.completion_tokens) == ("stop", 8)


async def test_a_beginning_of_a_stop_string_that_does_not_come_is_shown(executor: EngineExecutor) -> None:
    whole = (await answer(executor, prompt=PROMPT, temperature=0, max_tokens=5)).text
    stream = await answer(executor, prompt=PROMPT, temperature=0, max_tokens=5, stop=whole[-4:] + "!")

    assert stream.text == whole
    assert end_of(stream)[0] == "length"


async def test_the_models_own_end_is_a_stop(engine: Transformers, executor: EngineExecutor) -> None:
    whole = (await answer(executor, prompt=PROMPT, temperature=0, max_tokens=12)).text
    last = len(whole.split()) - 1
    token = engine._checkpoint.tokenizer.convert_tokens_to_ids(whole.split()[last])
    first = whole.split().index(whole.split()[last])
    ends_so = msgspec.structs.replace(engine._checkpoint, end_tokens=frozenset([token]))
    async with serving(Transformers("m", ends_so)) as ending:
        stream = await answer(ending, prompt=PROMPT, temperature=0)

    assert stream.text.split() == whole.split()[:first]
    reason, usage = end_of(stream)
    assert (reason, usage.completion_tokens) == ("stop", first + 1)


async def test_the_seed_decides_what_is_drawn(executor: EngineExecutor) -> None:
    how: dict[str, Any] = {"prompt": PROMPT, "temperature": 5, "max_tokens": 20}
    first = await answer(executor, seed=1, **how)
    again = await answer(executor, seed=1, **how)
    other = await answer(executor, seed=2, **how)

    assert first.text == again.text != other.text


async def test_without_a_seed_each_attempt_draws_the_same(executor: EngineExecutor) -> None:
    how: dict[str, Any] = {"prompt": PROMPT, "temperature": 5, "max_tokens": 20}

    assert (await answer(executor, **how)).text == (await answer(executor, **how)).text


async def test_sampling_parameters_reach_the_model(executor: EngineExecutor) -> None:
    how: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 20}
    greedy = await answer(executor, temperature=0, **how)
    narrow = await answer(executor, temperature=5, top_p=0.0001, **how)
    narrowest = await answer(executor, temperature=5, top_k=1, **how)
    wide = await answer(executor, temperature=5, **how)
    penalised = await answer(executor, temperature=0, repetition_penalty=9.0, **how)

    assert greedy.text == narrow.text == narrowest.text
    assert wide.text != greedy.text != penalised.text


async def test_without_a_limit_the_answer_ends_where_the_context_ends(executor: EngineExecutor) -> None:
    stream = await answer(executor, prompt=PROMPT, temperature=0)

    reason, usage = end_of(stream)
    assert (reason, usage.prompt_tokens + usage.completion_tokens) == ("length", CONTEXT)


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 5, "seed": 3, "stop": ["w1 w1"]}])
@pytest.mark.parametrize("question", [{"prompt": PROMPT}, {"messages": QUESTION}])
async def test_an_answer_goes_on_from_a_prefix_as_if_it_were_one(
    executor: EngineExecutor, question: dict[str, Any], how: dict[str, Any]
) -> None:
    had = (await answer(executor, **question, max_tokens=7, **how)).text
    rest = await answer(executor, had=had, **question, max_tokens=20, **how)
    again = await answer(executor, had=had, **question, max_tokens=20, **how)
    whole = await answer(executor, **question, max_tokens=20, **how)

    assert rest.text == again.text
    assert len(rest.text.split()) == 13
    assert end_of(rest) == end_of(whole)
    if not how["temperature"]:
        assert had + rest.text == whole.text


async def test_an_answer_that_lacked_only_its_end_gets_it(executor: EngineExecutor) -> None:
    whole = await answer(executor, prompt=PROMPT, temperature=0, max_tokens=7)
    rest = await answer(executor, had=whole.text, prompt=PROMPT, temperature=0, max_tokens=7)

    assert rest.text == ""
    assert end_of(rest) == end_of(whole)


async def test_a_cancel_stops_it_and_frees_its_slot(executor: EngineExecutor) -> None:
    for _ in range(3):
        stream = start(executor, prompt=PROMPT, temperature=0)
        await asyncio.to_thread(stream.wait_for_items, 3)
        stream.cancel()
        await asyncio.to_thread(stream.wait_over)
        assert len(stream.items) < CONTEXT // 2

    assert end_of(await answer(executor, prompt=PROMPT, temperature=0, max_tokens=4))[1].completion_tokens == 4


async def test_a_cancel_is_noticed_between_the_layers_of_a_long_prompt(
    engine: Transformers, executor: EngineExecutor
) -> None:
    entered, cancelled = threading.Event(), threading.Event()
    first, second = engine._checkpoint.model.model.layers
    seen = []

    def wait_for_the_cancel(*_: object) -> None:
        entered.set()
        assert cancelled.wait(PATIENCE)

    hooks = [
        first.register_forward_pre_hook(wait_for_the_cancel),
        second.register_forward_hook(lambda *_: seen.append("the second layer")),
    ]
    try:
        stream = start(executor, prompt=PROMPT)
        assert await asyncio.to_thread(entered.wait, PATIENCE)
        stream.cancel()
        cancelled.set()
        await asyncio.to_thread(stream.wait_over)
    finally:
        for hook in hooks:
            hook.remove()

    assert stream.items == seen == []


async def test_a_long_prompt_shows_signs_of_life(executor: EngineExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = await answer(executor, prompt=PROMPT, max_tokens=1)
    monkeypatch.setattr(transformers_generation, "SIGN_OF_LIFE", 0.0)
    lively = await answer(executor, prompt=PROMPT, max_tokens=1)

    assert lively.progress_calls > quiet.progress_calls


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": "w1 " * CONTEXT}, f"prompt too long: {CONTEXT} tokens, the model takes {CONTEXT}"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": [1, 2]}, "not as token numbers"),
        ({"input": "w1"}, "it makes no vectors"),
        ({"prompt": "w1", "n": 2}, "'n'"),
        ({"prompt": "w1", "max_tokens": 0}, "at least 1"),
        ({"prompt": "w1", "top_k": "many"}, "top_k"),
        ({"prompt": "w1", "repetition_penalty": 0}, "'repetition_penalty' has to be more than 0"),
        ({"messages": QUESTION, "tools": [{"type": "function"}]}, "'tools'"),
        ({"messages": QUESTION, "response_format": {"type": "json_object"}}, "'response_format'"),
        ({"messages": [{"role": "oracle", "content": "w1"}]}, "no such role"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "a text or an image_url"),
        ({"messages": chat_about("data:image/png;base64,aa")}, "does not take images"),
    ],
)
async def test_a_request_that_cannot_be_served_hears_why(
    executor: EngineExecutor, body: dict[str, Any], words: str
) -> None:
    stream = await answer(executor, **{"max_tokens": 5} | body)

    kind, message = stream.failure
    assert kind is FailureKind.REQUEST
    assert words in message


async def test_a_lack_of_memory_is_told_and_the_next_request_runs(
    engine: Transformers, executor: EngineExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks_memory(**_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as patched:
        patched.setattr(engine._checkpoint.model, "generate", lacks_memory)
        stream = await answer(executor, prompt=PROMPT)

    kind, message = stream.failure
    assert kind is FailureKind.ENGINE
    assert "out of memory on cpu, with 3 tokens in the prompt" in message
    assert end_of(await answer(executor, prompt=PROMPT, max_tokens=2))[1].completion_tokens == 2


def test_the_worker_announces_what_the_model_can(engine: Transformers) -> None:
    worker = Worker()
    engine_module.register(worker, engine.default_name, engine)

    [card] = worker.models
    assert (card.name, card.context_length) == ("tiny-llama", CONTEXT)
    assert [str(ability) for ability in card.abilities] == ["chat", "completion"]


def test_a_model_without_a_template_has_no_chats(engine: Transformers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._checkpoint.tokenizer, "chat_template", None)

    assert Transformers("m", engine._checkpoint).abilities == ["completion"]


def test_more_slots_than_one_are_refused(engine: Transformers) -> None:
    with pytest.raises(ValueError, match="one request at a time, and slots is 2"):
        engine_module.register(Worker(slots=2), "m", engine)


def test_the_words_of_the_tests_are_tokens(engine: Transformers) -> None:
    assert engine._checkpoint.tokenizer(" ".join(WORDS))["input_ids"] == [7 + number for number in range(len(WORDS))]


async def test_tokens_are_counted_as_a_prompts_while_a_generation_runs(
    engine: Transformers, executor: EngineExecutor
) -> None:
    stream = start(executor, prompt=PROMPT, temperature=0, max_tokens=60)
    counts = [await asyncio.to_thread(engine.count_tokens, f"{PROMPT} w4") for _ in range(20)]
    await asyncio.to_thread(stream.wait_over)

    assert set(counts) == {4}
    assert len(stream.text.split()) == 60


async def test_a_chat_that_fastchat_writes_has_the_tokens_of_the_chat(language_model: Path) -> None:
    engine = Transformers.load(str(language_model), device="cpu")
    # As many do: a system prompt of its own where the chat has none.
    engine._checkpoint.tokenizer.chat_template = (
        "{{ bos_token }}{% if messages[0]['role'] != 'system' %}<|system|>w1{% endif %}"
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    conversation = engine.conversation()
    assert conversation is not None
    assert conversation.roles == ("<|user|>", "<|assistant|>")
    # FastChat's style 5, for one question.
    written = conversation.system_template.format(system_message=conversation.system_message)
    written += conversation.roles[0] + "w4 w5" + conversation.sep + conversation.roles[1]
    async with serving(engine) as executor:
        chat = await answer(executor, messages=QUESTION, temperature=0, max_tokens=8)
        by_fastchat = await answer(executor, prompt=written, temperature=0, max_tokens=8)

    assert by_fastchat.text == chat.text
    assert end_of(by_fastchat) == end_of(chat)


def test_a_template_that_leaves_the_system_prompt_out_has_no_such_form(engine: Transformers) -> None:
    assert engine.conversation() is None
