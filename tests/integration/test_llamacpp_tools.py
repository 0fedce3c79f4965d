"""The llama.cpp engine with more than one text: tool calls, and several choices."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.llamacpp_runs import CONTEXT, QUESTION, answer, model_file, serving, usage_of
from tests.unit.engine_runs import had_after
from tests.unit.fake_stream import FakeStream
from workers_shim import Chunk
from workers_shim.engines.llamacpp import LlamaCpp
from workers_shim.engines.llamacpp_server import LlamaServer, choose_settings, parameters_of
from workers_shim.execution import EngineExecutor

# SmolLM2's own template knows no tools. From earlier calls in a chat this model, small as it is, learns to make one.
TEMPLATE = r"""
{%- if tools %}
    {{- '<|im_start|>system\nYou can call these functions:\n<tools>' }}
    {%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}
    {{- '\n</tools>\nA call looks like this:\n' }}
    {{- '<tool_call>\n{"name": <function>, "arguments": <object>}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role }}
    {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
    {%- for call in message.tool_calls %}
        {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
        {{- call.function.arguments | tojson }}
        {{- '}\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": CITY}}]


def asked_before(city: str) -> list[dict[str, Any]]:
    call = {"id": city, "type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": city, "content": "sunny"},
    ]


CHAT = [*asked_before("Rome"), *asked_before("Oslo"), {"role": "user", "content": "What is the weather in Paris?"}]
HOW: dict[str, Any] = {"messages": CHAT, "tools": TOOLS, "tool_choice": "required", "temperature": 0, "max_tokens": 80}

STORY = "Once upon a time there was"


@pytest.fixture(scope="module")
def engine() -> LlamaCpp:
    settings = choose_settings(model_file(), slots=2, context_length=CONTEXT, threads=None)
    parameters = parameters_of(settings)
    parameters.chat_template = TEMPLATE
    return LlamaCpp(settings, LlamaServer(parameters), media_marker=None)


@pytest.fixture
async def executor(engine: LlamaCpp) -> AsyncIterator[EngineExecutor]:
    async with serving(engine) as executor:
        yield executor


def payloads(items: list[str | Chunk]) -> list[dict[str, Any]]:
    return [json.loads(item.payload) for item in items if isinstance(item, Chunk) and item.payload is not None]


def arguments_of(items: list[str | Chunk], index: int = 0) -> Any:
    """Of the only call of a choice."""
    parts = [
        call["function"]["arguments"]
        for chunk in payloads(items)
        for choice in chunk["choices"]
        if choice["index"] == index
        for call in choice["delta"].get("tool_calls", ())
    ]
    return json.loads("".join(parts))


async def test_a_tool_call_comes_in_openais_own_chunks(executor: EngineExecutor) -> None:
    stream = await answer(executor, **HOW)
    first, *_, last = payloads(stream.items)

    assert len(payloads(stream.items)) == len(stream.items) > 3
    [call] = first["choices"][0]["delta"]["tool_calls"]
    assert (call["type"], call["function"]["name"], bool(call["id"])) == ("function", "weather", True)
    assert arguments_of(stream.items) == {"city": "Paris"}
    assert last["choices"][0]["finish_reason"] == stream.last_words[0][1] == "tool_calls"
    assert {chunk["model"] for chunk in payloads(stream.items)} == {"m"}


async def test_a_tool_call_that_moved_is_repeated_up_to_where_it_was(executor: EngineExecutor) -> None:
    whole = await answer(executor, **HOW)
    half = len(whole.items) // 2
    rest = await answer(executor, had=had_after(whole.items[:half]), **HOW)

    assert arguments_of([*whole.items[:half], *rest.items]) == {"city": "Paris"}
    assert rest.last_words == whole.last_words


async def test_choices_can_be_tool_calls_too(executor: EngineExecutor) -> None:
    stream = await answer(executor, **HOW, n=2)

    assert [arguments_of(stream.items, index) for index in (0, 1)] == [{"city": "Paris"}] * 2


def text_of(stream: FakeStream, index: int) -> str:
    mine = [item for item in stream.items if (item.index if isinstance(item, Chunk) else 0) == index]
    return "".join(item if isinstance(item, str) else item.text for item in mine)


@pytest.mark.parametrize("question", [{"prompt": STORY}, {"messages": QUESTION}], ids=["completion", "chat"])
async def test_several_choices_are_drawn_by_several_seeds(executor: EngineExecutor, question: dict[str, Any]) -> None:
    how = question | {"temperature": 1.5, "max_tokens": 8}
    three = await answer(executor, n=3, seed=5, **how)
    again = await answer(executor, n=3, seed=5, **how)
    one = await answer(executor, seed=5, **how)
    texts = [text_of(three, index) for index in range(3)]

    assert texts[0] == one.text
    assert len(set(texts)) == 3
    assert [text_of(again, index) for index in range(3)] == texts
    assert usage_of(three).prompt_tokens == usage_of(one).prompt_tokens
    assert usage_of(three).completion_tokens == 3 * usage_of(one).completion_tokens


async def test_choices_that_moved_are_repeated_up_to_where_they_were(executor: EngineExecutor) -> None:
    how: dict[str, Any] = {"prompt": STORY, "temperature": 1.5, "max_tokens": 8, "n": 2}
    whole = await answer(executor, **how)
    # In the middle of the second one.
    had = whole.items[:12]
    rest = await answer(executor, had=had_after(had), **how)

    both = FakeStream()
    both.items = [*had, *rest.items]
    assert [text_of(both, index) for index in (0, 1)] == [text_of(whole, index) for index in (0, 1)]
    assert rest.last_words == whole.last_words
