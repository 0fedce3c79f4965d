"""LangChain's classes for OpenAI's API, pointed at a controller."""

from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from tests.acceptance.fleet import RunningController
from tests.acceptance.openai_engine import ADA
from tests.acceptance.openai_questions import COUNTED, WEATHER, Person


@pytest.fixture
def server(talking: RunningController) -> dict[str, Any]:
    """Where to ask."""
    return {"base_url": f"{talking.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 30}


@pytest.fixture
def chat(server: dict[str, Any]) -> Any:
    """A chat model."""
    return ChatOpenAI(model="talker", **server)


def test_a_chat_with_its_counts(chat: Any) -> None:
    answer = chat.invoke("count")
    assert answer.content == COUNTED
    assert answer.usage_metadata["total_tokens"] == 9
    assert answer.response_metadata["finish_reason"] == "length"


def test_a_streamed_chat_with_its_counts(server: dict[str, Any]) -> None:
    whole: Any = None
    for chunk in ChatOpenAI(model="talker", stream_usage=True, **server).stream("count"):
        whole = chunk if whole is None else whole + chunk
    assert whole.content == COUNTED
    assert whole.usage_metadata["total_tokens"] == 9


async def test_many_at_once(chat: Any) -> None:
    answers = await chat.abatch(["count"] * 20)
    assert {answer.content for answer in answers} == {COUNTED}


def test_a_tool_is_called_and_its_answer_is_taken(chat: Any) -> None:
    with_tools = chat.bind_tools([WEATHER])
    question = HumanMessage("weather")
    answer = with_tools.invoke([question])
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    last = with_tools.invoke([question, answer, ToolMessage("rain", tool_call_id=call["id"])])
    assert last.content == "It rains."


def test_a_streamed_tools_call_grows(chat: Any) -> None:
    whole: Any = None
    for chunk in chat.bind_tools([WEATHER]).stream("weather"):
        whole = chunk if whole is None else whole + chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_an_answer_of_a_given_form(chat: Any, method: str) -> None:
    assert chat.with_structured_output(Person, method=method).invoke("Ada") == Person(**ADA)


def test_an_image(chat: Any) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    answer = chat.invoke([HumanMessage([{"type": "text", "text": "seen"}, image])])
    assert "data:image/png;base64,iVBORw0KGgo=" in answer.content


def test_embeddings_of_texts(server: dict[str, Any]) -> None:
    embeddings = OpenAIEmbeddings(model="embedder", check_embedding_ctx_length=False, **server)
    assert embeddings.embed_documents(["a", "bcd"]) == [[1.0, 0.0], [3.0, 0.25]]
    assert embeddings.embed_query("four") == [4.0, 0.0]


def test_a_completion_of_several_prompts(server: dict[str, Any]) -> None:
    answer = OpenAI(model="talker", max_tokens=2, **server).generate(["count", "please count"])
    assert [generations[0].text for generations in answer.generations] == ["0 1 ", "0 1 "]


def test_an_error_is_openais(chat: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="the prompt is too long"):
        chat.invoke("refuse")
