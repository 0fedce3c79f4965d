"""What of a client's request is changed for the server behind `openai`: as little as can be."""

import json
from typing import Any

import pytest

from broker_wire.messages import Operation
from tests.unit.fake_stream import FakeStream, assignment
from workers_shim.engines.openai_requests import Call, make_call
from workers_shim.request_body import parse_request

CHAT = b'{ "model":"m",\n "messages": [{"role": "user", "content": "\\u00e9 hi"}], "new_field": 1.0, "stream":true }'


def call(body: bytes | dict[str, Any], operation: Operation, upstream: str = "m", *, seeded: bool = False) -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = assignment(body=raw, operation=operation)
    request = parse_request(given.generate, deadline=given.deadline, suspect=False, link=FakeStream())
    return make_call(request, upstream, seeded=seeded)


def test_a_request_goes_up_as_it_came() -> None:
    assert call(CHAT, Operation.CHAT) == Call("/chat/completions", CHAT, streams=True)


@pytest.mark.parametrize(
    ("body", "operation", "path", "streams"),
    [
        ({"model": "m", "messages": [{"role": "user"}]}, Operation.CHAT, "/chat/completions", False),
        ({"model": "m", "prompt": [[1, 2]], "stream": True}, Operation.COMPLETION, "/completions", True),
        ({"model": "m", "input": ["a", "b"], "stream": True}, Operation.EMBEDDING, "/embeddings", False),
    ],
)
def test_each_operation_has_its_path(body: dict[str, Any], operation: Operation, path: str, streams: bool) -> None:
    made = call(body, operation)

    assert (made.path, made.streams, made.as_text) == (path, streams, False)
    assert json.loads(made.body) == body


def test_another_name_is_put_in_and_every_other_value_keeps_its_bytes() -> None:
    made = call(CHAT, Operation.CHAT, 'org/"M"')

    assert made.body == CHAT.replace(b'"m"', b'"org/\\"M\\""').replace(b"{ ", b"{", 1).replace(b",\n ", b",").replace(
        b'"messages": ', b'"messages":'
    ).replace(b'}], "new_field": ', b'}],"new_field":').replace(b', "stream"', b',"stream"').replace(
        b"true }", b"true}"
    )


def test_a_seed_is_added_where_there_is_none_and_attempts_are_to_be_equal() -> None:
    seedless = {"model": "m", "prompt": "x"}
    first, second = (json.loads(call(seedless, Operation.COMPLETION, seeded=True).body) for _ in range(2))

    assert first == second
    assert isinstance(first["seed"], int)
    assert json.loads(call(seedless | {"seed": 7}, Operation.COMPLETION, seeded=True).body)["seed"] == 7
    assert "seed" not in json.loads(call({"model": "m", "input": "x"}, Operation.EMBEDDING, seeded=True).body)


def test_llavas_request_becomes_a_completion() -> None:
    body = {
        "model": "m",
        "prompt": "A chat. USER: hi ASSISTANT:",
        "max_new_tokens": "9",
        "stop": "</s>",
        "temperature": 0,
    }
    made = call(body | {"top_p": 0.5, "echo": True}, Operation.LLAVA, "M")

    assert (made.path, made.streams, made.as_text) == ("/completions", True, True)
    assert json.loads(made.body) == {
        "model": "M",
        "prompt": body["prompt"],
        "max_tokens": 9,
        "stop": ["</s>"],
        "temperature": 0.0,
        "top_p": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_llavas_images_become_parts_of_a_chat() -> None:
    images = ["/9j/4AAQ", "iVBORw0", "data:image/webp;base64,UklGR", "https://x/y.png", "AAAA"]
    made = call({"model": "m", "prompt": "<image>\nWhat is it?", "images": images}, Operation.LLAVA)

    assert made.path == "/chat/completions"
    [message] = json.loads(made.body)["messages"]
    *parts, text = message["content"]
    assert [part["image_url"]["url"] for part in parts] == [
        "data:image/jpeg;base64,/9j/4AAQ",
        "data:image/png;base64,iVBORw0",
        "data:image/webp;base64,UklGR",
        "https://x/y.png",
        "data:image/png;base64,AAAA",
    ]
    assert text == {"type": "text", "text": "What is it?"}
