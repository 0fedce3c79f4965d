"""The engine `echo` as the engine behind an OpenAI client: what it says reaches the client whole."""

import json
from typing import Any

import httpx

from tests.acceptance.fleet import Fleet, RunningController

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


def events(controller: RunningController, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "m", "messages": [{"role": "user", "content": "get_weather now"}], "stream": True, **fields}
    answer = httpx.post(f"{controller.url}/v1/chat/completions", json=body, timeout=60)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_what_openais_clients_ask_for_comes_through_whole_and_in_streams(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1")
    controller.wait_for_workers("w1")

    called = controller.chat("get_weather now", 100, tools=[TOOL]).json()["choices"][0]
    assert called["finish_reason"] == "tool_calls"
    [call] = called["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": ""})

    chunks = events(controller, tools=[TOOL], stream_options={"include_usage": True})
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    parts = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ())]
    assert json.loads("".join(parts)) == {"city": ""}
    assert chunks[-1]["usage"]["prompt_tokens"] == 2
    assert len({chunk["id"] for chunk in chunks}) == 1

    several = controller.chat("one two", 2, n=2, logprobs=True).json()
    assert [choice["message"]["content"] for choice in several["choices"]] == ["one two", "two one"]
    assert [len(choice["logprobs"]["content"]) for choice in several["choices"]] == [2, 2]
    assert several["usage"]["completion_tokens"] == 4

    thought = controller.chat("one two", 4, echo_engine={"reasoning": 2}).json()["choices"][0]["message"]
    assert (thought["reasoning_content"], thought["content"]) == ("one two", "one two")

    wanted = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    shaped = controller.chat("x", 100, response_format=wanted).json()["choices"][0]
    assert (json.loads(shaped["message"]["content"]), shaped["finish_reason"]) == ({"city": ""}, "stop")

    for error, status in {"request": 400, "engine": 500, "unavailable": 502, "lost": 502}.items():
        failed = controller.chat("x", 9, echo_engine={"fail_after": 2, "error": error})
        assert failed.status_code == status
        assert "'echo_engine' asks for this failure" in failed.json()["error"]["message"]
