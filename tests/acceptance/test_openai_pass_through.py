"""What an OpenAI-compatible engine and its client say to each other crosses byte for byte, both ways."""

import base64
import json

import httpx
import pytest
from openai import OpenAI

from tests.acceptance.fleet import RunningController
from tests.acceptance.openai_engine import OWN_CHUNKS, OWN_WHOLE
from tests.acceptance.openai_questions import user

CHAT = (
    b'{ "messages":[{"role":"user","content":"raw"}], "x_vendor" : {"b":1.50, "a":[1e3,"\\u00e9"]},\n'
    b'"model" :"talker","stream_options":{"include_usage":true}%b }'
)


@pytest.mark.parametrize("stream", [b"", b', "stream": true'])
def test_the_engine_gets_the_clients_bytes(talking: RunningController, stream: bytes) -> None:
    body = CHAT % stream
    response = httpx.post(f"{talking.url}/v1/chat/completions", content=body, timeout=60)
    assert response.status_code == 200
    if stream:
        chunks = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n")[:-2]]
        text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    else:
        text = response.json()["choices"][0]["message"]["content"]
    assert base64.b64decode(text) == body


@pytest.mark.parametrize("path", ["completions", "embeddings"])
def test_what_stands_in_the_place_of_a_prompt_is_for_the_engine(talking: RunningController, path: str) -> None:
    body = b'{"model": "mirror", "x_prompt_of_another_kind": 1}'
    response = httpx.post(f"{talking.url}/v1/{path}", content=body, timeout=60)
    assert response.status_code == 200
    assert base64.b64decode(response.json()["x_asked"]) == body


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}])
def test_a_stream_is_the_engines_bytes(talking: RunningController, more: dict[str, object]) -> None:
    body = {"model": "talker", "messages": user("own"), "stream": True} | more
    response = httpx.post(f"{talking.url}/v1/chat/completions", json=body, timeout=60)
    assert response.content == b"".join(b"data: %b\n\n" % chunk for chunk in (*OWN_CHUNKS, b"[DONE]"))


def test_a_whole_answer_is_the_engines_bytes(talking: RunningController) -> None:
    body = {"model": "talker", "messages": user("own")}
    response = httpx.post(f"{talking.url}/v1/chat/completions", json=body, timeout=60)
    assert response.content == OWN_WHOLE
    assert response.headers["content-type"] == "application/json"


def test_what_only_this_engine_has_is_there_for_its_users(client: OpenAI) -> None:
    first, *_, last = client.chat.completions.create(model="talker", messages=user("own"), stream=True)
    assert first.model == "other/name"
    assert first.model_extra == {"x_vendor": {"a": [1.5]}}
    assert (first.choices[0].delta.model_extra or {})["reasoning_content"] == "hm\u00e9"
    assert last.usage is not None
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 1
