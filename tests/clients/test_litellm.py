"""LiteLLM as a client library, with the prefix by which it knows a server of OpenAI's kind."""

from typing import Any

import litellm
import pytest

from tests.acceptance.fleet import RunningController
from tests.acceptance.openai_engine import OWN_CHUNKS
from tests.acceptance.openai_questions import COUNTED, WEATHER, user


@pytest.fixture
def server(talking: RunningController) -> dict[str, Any]:
    """Where to ask, for every call."""
    return {"api_base": f"{talking.url}/v1", "api_key": "none", "num_retries": 0, "timeout": 30}


def test_a_chat_with_its_counts(server: dict[str, Any]) -> None:
    answer = litellm.completion(model="openai/talker", messages=user("count"), **server)
    assert answer.choices[0].message.content == COUNTED
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == 9


def test_a_streamed_chat_with_its_counts(server: dict[str, Any]) -> None:
    chunks = list(
        litellm.completion(
            model="openai/talker",
            messages=user("count"),
            stream=True,
            stream_options={"include_usage": True},
            **server,
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == COUNTED
    assert chunks[-1].usage.total_tokens == 9


async def test_an_asynchronous_stream(server: dict[str, Any]) -> None:
    stream = await litellm.acompletion(model="openai/talker", messages=user("count"), stream=True, **server)
    parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(parts) == COUNTED


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_is_called(server: dict[str, Any], stream: bool) -> None:
    asked: dict[str, Any] = {"model": "openai/talker", "messages": user("weather"), "tools": [WEATHER]} | server
    answer = litellm.completion(stream=stream, **asked)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer))
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Paris"}')
    assert answer.choices[0].finish_reason == "tool_calls"


def test_what_an_engine_thinks(server: dict[str, Any]) -> None:
    chunks = list(litellm.completion(model="openai/talker", messages=user("own"), stream=True, **server))
    assert len(chunks) >= len(OWN_CHUNKS) - 1
    assert [chunk.choices[0].delta.reasoning_content for chunk in chunks[:1]] == ["hm\u00e9"]


def test_embeddings(server: dict[str, Any]) -> None:
    answer = litellm.embedding(model="openai/embedder", input=["a", "bcd"], encoding_format="float", **server)
    assert [one["embedding"] for one in answer.data] == [[1.0, 0.0], [3.0, 0.25]]
    assert answer.usage.prompt_tokens == 4


def test_a_text_completion(server: dict[str, Any]) -> None:
    answer = litellm.text_completion(
        model="text-completion-openai/talker", prompt=["count", "please count"], max_tokens=2, **server
    )
    assert [choice.text for choice in answer.choices] == ["0 1 ", "0 1 "]


@pytest.mark.parametrize(
    ("model", "wish", "kind"),
    [
        ("nobody", "count", litellm.NotFoundError),
        ("talker", "refuse", litellm.BadRequestError),
        ("talker", "raise", litellm.InternalServerError),
    ],
)
def test_errors_are_of_the_right_kind(server: dict[str, Any], model: str, wish: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="request"):
        litellm.completion(model=f"openai/{model}", messages=user(wish), **server)
