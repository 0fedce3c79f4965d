"""A response's request, and the chat that it becomes."""

import json
from typing import Any

import pytest

from broker_controller.errors import BadRequestError
from broker_controller.http.bodies import BodyReader
from broker_controller.responses.chat import chat_body
from broker_controller.responses.items import to_messages
from broker_controller.responses.request import Asked, ResponseBody, check, engines_own

_read = BodyReader(ResponseBody).read


def ask(**fields: Any) -> Asked:
    return check(_read(json.dumps({"model": "m", "input": "hi"} | fields).encode()), "resp_1")


def chat_of(**fields: Any) -> dict[str, Any]:
    asked = ask(**fields)
    chat: dict[str, Any] = json.loads(chat_body("resp_1", asked.fields, asked.items))
    return chat


def messages_of(*items: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = chat_of(input=list(items))["messages"]
    return messages


def test_a_text_is_a_message_of_the_user_after_the_instructions() -> None:
    assert chat_of(instructions="be kind") == {
        "model": "m",
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_parameters_have_a_chats_names() -> None:
    chat = chat_of(n=1, max_output_tokens=5, temperature=0.0, top_p=0.5, user="u", reasoning={"effort": "low"})
    assert (chat["max_tokens"], chat["temperature"], chat["top_p"], chat["user"]) == (5, 0.0, 0.5, "u")
    assert chat["reasoning_effort"] == "low"


def test_what_openai_does_not_know_is_the_engines_and_what_only_wishes_is_nobodys() -> None:
    known = {"model": "m", "input": "hi", "service_tier": "flex", "truncation": "auto"}
    raw = json.dumps(known | {"seed": 7, "top_k": 3, "messages": [], "x": {"y": None}}).encode()
    own = engines_own(raw)
    assert own == {"seed": 7, "top_k": 3, "messages": [], "x": {"y": None}}

    asked = check(_read(raw), "resp_1", own)
    chat = json.loads(chat_body("resp_1", asked.fields, asked.items))
    assert (chat["seed"], chat["top_k"], chat["x"]) == (7, 3, {"y": None})
    assert chat["messages"] == [{"role": "user", "content": "hi"}]


def test_logprobs_are_asked_for_by_including_them_or_by_their_number() -> None:
    def asked_for(**fields: Any) -> Any:
        chat = chat_of(**fields)
        return chat.get("logprobs"), chat.get("top_logprobs")

    assert asked_for() == (None, None)
    assert asked_for(include=["reasoning.encrypted_content"]) == (None, None)
    assert asked_for(include=["message.output_text.logprobs"]) == (True, 0)
    assert asked_for(include=["message.output_text.logprobs"], top_logprobs=3) == (True, 3)
    assert asked_for(top_logprobs=5) == (True, 5)


def test_a_session_keeps_its_name() -> None:
    assert chat_of(prompt_cache_key="k")["prompt_cache_key"] == "k"


def test_messages_of_every_role_and_form() -> None:
    assert messages_of(
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b"}, {"type": "output_text", "text": "c"}]},
    ) == [
        {"role": "system", "content": "d"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b\nc"},
    ]


def test_an_image_is_a_part() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
    [message] = messages_of({"role": "user", "content": [{"type": "input_text", "text": "what?"}, image]})
    assert message["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": image["image_url"], "detail": "low"}},
    ]


def test_calls_that_follow_each_other_are_one_message_and_their_outputs_are_tools() -> None:
    def call(number: int) -> dict[str, Any]:
        return {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}"}

    messages = messages_of(
        {"role": "user", "content": "go"},
        call(1),
        call(2),
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        {"type": "reasoning", "summary": []},
    )
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["c1", "c2"]
    assert messages[2:] == [
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
    ]


def test_tools_and_their_choice() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    chat = chat_of(tools=[tool], tool_choice={"type": "function", "name": "f"}, parallel_tool_calls=False)
    assert chat["tools"] == [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    ]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert chat["parallel_tool_calls"] is False


def test_a_schema_of_the_answer_is_a_response_format() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    assert chat_of(text={"format": form})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
    }
    assert chat_of(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in chat_of(text={"format": {"type": "text"}})


def test_only_in_the_background_a_seed_is_drawn_and_by_the_id_alone() -> None:
    assert "seed" not in chat_of()
    seed = chat_of(background=True)["seed"]
    assert seed == chat_of(background=True)["seed"]
    assert 0 <= seed < 2**31


def test_items_have_ids_and_keep_those_they_have() -> None:
    items = ask(input=[{"role": "user", "content": "a"}, {"id": "msg_mine", "role": "assistant", "content": "b"}]).items
    assert [item["id"] for item in items] == ["msg_1_0", "msg_mine"]
    assert items[1]["content"] == [{"type": "output_text", "text": "b", "annotations": []}]
    assert to_messages(items) == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"input": []}, "`input` is empty"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "'item_reference'"),
        ({"input": [{"role": "tool", "content": "x"}]}, "the role 'tool'"),
        ({"input": [{"role": "user", "content": 5}]}, "has to be a text or a list"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "'input_audio'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "`image_url`"),
        ({"input": [{"role": "user", "content": ["x"]}]}, "a part of type None"),
        ({"input": [{"type": {}}]}, "an item of type {}"),
        ({"input": [{"role": "user", "content": [{"type": ["input_text"]}]}]}, "a part of type ['input_text']"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "`call_id`"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "has to be a text or a list"),
        ({"tools": [{"type": "web_search"}]}, "'web_search'"),
        ({"tools": [{"type": "function"}]}, "needs a `name`"),
        ({"tools": [{"type": "function", "name": "f", "parameters": 1}]}, "JSON schema"),
        ({"tool_choice": "always"}, "'always'"),
        ({"tool_choice": {"type": "file_search"}}, "'file_search'"),
        ({"text": {"format": {"type": "json_schema"}}}, "json_schema"),
        ({"background": True, "store": False}, "`background` needs `store`"),
        ({"prompt": {"id": "p"}}, "`prompt`"),
        ({"n": 2}, "a response has one answer"),
        ({"top_logprobs": 21}, "<= 20"),
        ({"max_output_tokens": 0}, ">= 1"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        ask(**fields)
    assert sentence in str(refused.value)
