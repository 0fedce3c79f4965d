"""OpenAI's own library: chats, completions and models, as its users write them."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.acceptance.fleet import RunningController
from tests.acceptance.openai_engine import ADA
from tests.acceptance.openai_questions import COUNTED, WEATHER, Person, user


def test_a_chat_and_who_gave_it(client: OpenAI) -> None:
    response = client.chat.completions.with_raw_response.create(model="talker", messages=user("please count"))
    chat = response.parse()
    assert response.headers["x-worker"] == "talker-1"
    assert (chat.object, chat.model) == ("chat.completion", "talker")
    assert chat.choices[0].message.content == COUNTED
    assert chat.choices[0].finish_reason == "length"
    assert chat.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens, chat.usage.total_tokens) == (3, 6, 9)


@pytest.mark.parametrize("include_usage", [True, False, None])
def test_a_streamed_chat_with_and_without_its_usage(client: OpenAI, include_usage: bool | None) -> None:
    options: Any = {} if include_usage is None else {"stream_options": {"include_usage": include_usage}}
    chunks = list(client.chat.completions.create(model="talker", messages=user("count"), stream=True, **options))
    if include_usage:
        last = chunks.pop()
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.total_tokens == 9
        assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    assert all("usage" in chunk.model_fields_set for chunk in chunks) is bool(include_usage)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == COUNTED
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["length"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_choices_with_a_limit_and_a_stop(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model="talker", messages=user("count"), n=2, max_completion_tokens=4, stop=["3", "9"]
    )
    assert [choice.index for choice in chat.choices] == [0, 1]
    assert {choice.message.content for choice in chat.choices} == {"0 1 2 "}
    assert {choice.finish_reason for choice in chat.choices} == {"stop"}


def test_logprobs_of_a_response(client: OpenAI) -> None:
    asked: Any = {"model": "talker", "input": "count", "max_output_tokens": 3, "top_logprobs": 2}
    asked["include"] = ["message.output_text.logprobs"]
    whole = client.responses.create(**asked)
    events = list(client.responses.create(stream=True, **asked))

    [message] = whole.output
    found = message.content[0].logprobs
    assert [(one.token, one.logprob, len(one.top_logprobs)) for one in found] == [
        (f"{number} ", -0.5, 2) for number in range(3)
    ]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [one.token for delta in deltas for one in delta.logprobs] == ["0 ", "1 ", "2 "]
    assert events[-1].response.output[0].content[0].logprobs == found


@pytest.mark.parametrize("background", [False, True])
def test_what_is_the_engines_own_reaches_it_through_a_response_too(client: OpenAI, background: bool) -> None:
    own = {"seed": 7, "stop": ["###"], "x_vendor": {"a": [1.5]}}
    response = client.responses.create(
        model="talker", input="seen", prompt_cache_key="k", background=background, extra_body=own
    )
    while response.status in ("queued", "in_progress"):
        *_, last = client.responses.retrieve(response.id, stream=True)
        response = last.response  # type: ignore[union-attr]
    seen = json.loads(response.output_text)
    assert (seen["seed"], seen["stop"]) == (7, ["###"])
    assert seen["parameters"]["x_vendor"] == {"a": [1.5]}
    assert seen["parameters"]["prompt_cache_key"] == response.prompt_cache_key == "k"
    assert "x_vendor" not in (response.model_extra or {})


@pytest.mark.parametrize("stream", [True, False])
def test_logprobs_of_a_chat(client: OpenAI, stream: bool) -> None:
    asked: Any = {"model": "talker", "messages": user("count"), "logprobs": True, "top_logprobs": 2, "max_tokens": 3}
    if stream:
        chunks = list(client.chat.completions.create(stream=True, **asked))
        found = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    else:
        found = [client.chat.completions.create(**asked).choices[0].logprobs]
    tokens = [token for logprobs in found for token in logprobs.content or ()]
    assert [token.token for token in tokens] == ["0 ", "1 ", "2 "]
    assert {len(token.top_logprobs) for token in tokens} == {2}


def test_every_parameter_reaches_the_engine(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model="talker",
        messages=user("seen"),
        seed=7,
        stop="end",
        temperature=0.5,
        top_p=0.25,
        max_completion_tokens=9,
        user="somebody",
        metadata={"a": "b"},
        store=False,
        presence_penalty=0.5,
        response_format={"type": "json_object"},
        tools=[WEATHER],
        tool_choice="none",
        extra_body={"guided_regex": "[a-z]+"},
    )
    seen = json.loads(chat.choices[0].message.content or "")
    parameters = seen.pop("parameters")
    assert seen == {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.25,
        "stop": ["end"],
        "seed": 7,
        "images": [],
        "stream": False,
    }
    assert parameters == {
        "user": "somebody",
        "metadata": {"a": "b"},
        "store": False,
        "presence_penalty": 0.5,
        "response_format": {"type": "json_object"},
        "tools": [WEATHER],
        "tool_choice": "none",
        "guided_regex": "[a-z]+",
    }


def test_a_tool_is_called_and_its_answer_is_taken(client: OpenAI) -> None:
    messages = user("What is the weather?")
    chat = client.chat.completions.create(model="talker", messages=messages, tools=[WEATHER])
    message = chat.choices[0].message
    assert chat.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert (call.id, call.function.name) == ("call-1", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    chat = client.chat.completions.create(model="talker", messages=messages, tools=[WEATHER])
    assert chat.choices[0].message.content == "It rains."


def test_a_streamed_tools_call_grows(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="talker", messages=user("weather"), tools=[WEATHER], stream_options={"include_usage": True}
    ) as stream:
        arguments = [event.arguments_delta for event in stream if event.type == "tool_calls.function.arguments.delta"]
        chat = stream.get_final_completion()
    assert "".join(arguments) == '{"city":"Paris"}'
    assert (chat.choices[0].message.tool_calls or [])[0].function.name == "get_weather"
    assert chat.usage is not None
    assert chat.usage.total_tokens == 7


def test_an_answer_is_parsed_by_its_schema(client: OpenAI) -> None:
    chat = client.chat.completions.parse(model="talker", messages=user("Ada"), response_format=Person)
    assert chat.choices[0].message.parsed == Person(**ADA)


def test_images_pass_as_data_and_by_url_from_allowed_hosts_alone(client: OpenAI) -> None:
    def ask(url: str) -> Any:
        parts = [{"type": "text", "text": "seen"}, {"type": "image_url", "image_url": {"url": url}}]
        chat = client.chat.completions.create(model="talker", messages=user(parts))
        return json.loads(chat.choices[0].message.content or "")["images"]

    for url in ("data:image/png;base64,iVBORw0KGgo=", "https://images.example.com/a.png"):
        assert ask(url) == [url]
    with pytest.raises(openai.BadRequestError, match=r"169\.254\.169\.254 is no host that --allow-image-url"):
        ask("http://169.254.169.254/latest/meta-data")


def test_a_completion_and_its_logprobs(client: OpenAI) -> None:
    completion = client.completions.create(model="talker", prompt="count", max_tokens=2, logprobs=1)
    choice = completion.choices[0]
    assert (completion.object, choice.text, choice.finish_reason) == ("text_completion", "0 1 ", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["0 ", "1 "]


@pytest.mark.parametrize("stream", [True, False])
def test_the_choices_of_several_prompts_are_numbered_over_prompts_and_n(client: OpenAI, stream: bool) -> None:
    asked: Any = {"model": "talker", "prompt": ["count", "please count", [1, 2]], "n": 2, "max_tokens": 2}
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    parts = list(client.completions.create(stream=True, **asked)) if stream else [client.completions.create(**asked)]
    for choice in (choice for part in parts for choice in part.choices):
        texts[choice.index] = texts.get(choice.index, "") + choice.text
        reasons[choice.index] = choice.finish_reason or reasons.get(choice.index, "")
    assert texts == dict.fromkeys(range(6), "0 1 ")
    assert reasons == dict.fromkeys(range(6), "length")
    if not stream:
        assert parts[0].usage is not None
        assert (parts[0].usage.prompt_tokens, parts[0].usage.completion_tokens) == (9, 12)


def test_the_models_and_what_they_can(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["embedder", "mirror", "talker"]
    model = client.models.retrieve("embedder")
    assert (model.object, model.owned_by) == ("model", "broker-controller")
    assert model.model_extra is not None
    assert model.model_extra["abilities"] == ["embedding"]
    with pytest.raises(openai.NotFoundError, match="talker"):
        client.models.retrieve("nobody")


async def test_the_asynchronous_client(talking: RunningController) -> None:
    async with AsyncOpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0) as client:
        chat = await client.chat.completions.create(model="talker", messages=user("count"))
        assert chat.choices[0].message.content == COUNTED
        stream = await client.chat.completions.create(model="talker", messages=user("count"), stream=True)
        parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(parts) == COUNTED
        assert [model.id async for model in client.models.list()] == ["embedder", "mirror", "talker"]
        parsed = await client.chat.completions.parse(model="talker", messages=user("Ada"), response_format=Person)
        assert parsed.choices[0].message.parsed == Person(**ADA)
