"""What an engine gets of a client's body, and what a client hears of a bad one."""

import json
import math
import time
from typing import Any

import pytest

from broker_wire.messages import Generate, Operation
from tests.unit.fake_stream import FakeStream
from workers_shim.request import Cancelled, Request, RequestError
from workers_shim.request_body import LLAVA_MAX_NEW_TOKENS, MAX_TOKENS, parse_request

HELLO = [{"role": "user", "content": "hello"}]


def parse(
    body: Any,
    operation: Operation = Operation.COMPLETION,
    stream: FakeStream | None = None,
    *,
    unchecked: bool = False,
) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    generate = Generate("c", 1, 1, "r-1", "m", operation, 60.0, raw)
    deadline = time.monotonic() + 60.0
    return parse_request(generate, deadline=deadline, suspect=True, link=stream or FakeStream(), unchecked=unchecked)


def test_a_chat() -> None:
    body = {
        "model": "m",
        "messages": HELLO,
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["a", ""],
        "seed": -3,
        "stream": True,
        "top_k": 40,
        "tools": [],
    }
    request = parse(body, Operation.CHAT)

    assert request.messages == HELLO
    assert request.prompt is None
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (5, 0.0, 0.5, -3)
    assert request.stop == ["a"]
    assert request.stream
    assert request.parameters == {"top_k": 40, "tools": []}
    assert request.request_id == "r-1"
    assert request.suspect
    assert json.loads(request.raw) == body


def test_what_the_client_leaves_out_is_the_engines_choice() -> None:
    request = parse({"messages": HELLO, "max_tokens": None, "stop": None}, Operation.CHAT)

    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (None, None, None, None)
    assert request.stop == []
    assert not request.stream


def test_the_newer_name_of_a_chats_limit_wins() -> None:
    request = parse({"messages": HELLO, "max_tokens": 5, "max_completion_tokens": 7}, Operation.CHAT)

    assert request.max_tokens == 7
    assert request.parameters == {}


def test_images_of_a_chat_are_found_in_its_messages() -> None:
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": "https://example.org/cat.png"},
    ]
    request = parse({"messages": [{"role": "user", "content": parts}]}, Operation.CHAT)

    assert request.images == ["data:image/png;base64,AAAA", "https://example.org/cat.png"]


def test_llavas_own_words() -> None:
    body = {"model": "m", "prompt": "p", "temperature": "0.2", "max_new_tokens": "12", "stop": "###", "images": ["A"]}
    request = parse(body | {"echo": False, "repetition_penalty": 1.1}, Operation.LLAVA)

    assert (request.prompt, request.temperature, request.max_tokens) == ("p", 0.2, 12)
    assert request.stop == ["###"]
    assert request.images == ["A"]
    assert request.stream
    assert request.parameters == {"echo": False, "repetition_penalty": 1.1}


def test_llavas_default_length() -> None:
    assert parse({"prompt": "p"}, Operation.LLAVA).max_tokens == LLAVA_MAX_NEW_TOKENS


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        ({"prompt": "p", "max_new_tokens": 10**30}, Operation.LLAVA),
        ({"prompt": "p", "max_tokens": 2**31}, Operation.COMPLETION),
        ({"messages": HELLO, "max_completion_tokens": 2**64}, Operation.CHAT),
    ],
)
def test_without_any_limit_to_speak_of_means_the_largest_that_engines_can_count(
    body: dict[str, Any], operation: Operation
) -> None:
    assert parse(body, operation).max_tokens == MAX_TOKENS


@pytest.mark.parametrize("prompt", ["p", ["p"]])
def test_one_prompt_may_come_as_a_list(prompt: Any) -> None:
    request = parse({"prompt": prompt})

    assert request.prompt == "p"
    assert request.parameters == {}


@pytest.mark.parametrize("prompt", [["p", "q"], [1, 2, 3], [[1], [2]]])
def test_several_prompts_and_tokens_are_left_to_the_engine(prompt: Any) -> None:
    request = parse({"prompt": prompt})

    assert request.prompt is None
    assert request.parameters == {"prompt": prompt}


def test_what_to_embed() -> None:
    assert parse({"input": "p"}, Operation.EMBEDDING).prompt == "p"
    assert parse({"input": ["p", "q"]}, Operation.EMBEDDING).parameters == {"input": ["p", "q"]}


@pytest.mark.parametrize(
    ("body", "operation", "words"),
    [
        (b"{", Operation.CHAT, "not valid JSON"),
        (b"\xff", Operation.CHAT, "not valid JSON"),
        (b'{"prompt": "\\ud800"}', Operation.COMPLETION, "not valid JSON"),
        (b"[" * 100_000, Operation.CHAT, "not valid JSON"),
        ([1], Operation.CHAT, "JSON object, not a list"),
        ({}, Operation.CHAT, "'messages' has to be a list"),
        ({"messages": []}, Operation.CHAT, "'messages' has to be a list"),
        ({"messages": ["hi"]}, Operation.CHAT, r"'messages\[0\]' has to be an object"),
        ({"messages": [{"content": "hi"}]}, Operation.CHAT, "with a 'role'"),
        ({"messages": [{"role": "user", "content": 7}]}, Operation.CHAT, r"'messages\[0\].content'"),
        ({}, Operation.COMPLETION, "'prompt' is missing"),
        ({"prompt": 7}, Operation.COMPLETION, "'prompt' has to be a text, not the number 7"),
        ({"prompt": []}, Operation.COMPLETION, "'prompt' has to be a text, not a list"),
        ({"prompt": ["p"]}, Operation.LLAVA, "'prompt' has to be a text, not a list"),
        ({"prompt": "p", "images": "A"} | {"images": {"a": 1}}, Operation.LLAVA, "'images' has to be"),
        ({"input": None}, Operation.EMBEDDING, "'input' is missing"),
        ({"prompt": "p", "max_tokens": "5"}, Operation.COMPLETION, "'max_tokens' has to be a whole number, not a text"),
        ({"prompt": "p", "max_tokens": 1.5}, Operation.COMPLETION, "'max_tokens' has to be a whole number"),
        ({"prompt": "p", "max_tokens": True}, Operation.COMPLETION, "not true or false"),
        ({"prompt": "p", "max_tokens": -1}, Operation.COMPLETION, "'max_tokens' has to be at least 0, not -1"),
        ({"prompt": "p", "max_new_tokens": "many"}, Operation.LLAVA, "'max_new_tokens' has to be a whole number"),
        ({"prompt": "p", "temperature": "hot"}, Operation.LLAVA, "'temperature' has to be a number"),
        ({"prompt": "p", "temperature": "nan"}, Operation.LLAVA, "'temperature' has to be at least 0"),
        ({"prompt": "p", "temperature": 10**400}, Operation.COMPLETION, "'temperature' has to be"),
        ({"prompt": "p", "temperature": -0.1}, Operation.COMPLETION, "'temperature' has to be at least 0"),
        ({"prompt": "p", "top_p": 1.1}, Operation.COMPLETION, "'top_p' has to be from 0 to 1, not 1.1"),
        ({"prompt": "p", "stop": [1]}, Operation.COMPLETION, "'stop' has to be a text or a list of texts"),
        ({"prompt": "p", "stream": "yes"}, Operation.COMPLETION, "'stream' has to be true or false"),
        ({"prompt": "p", "seed": "x"}, Operation.COMPLETION, "'seed' has to be a whole number"),
    ],
)
def test_a_bad_body_is_refused_in_words(body: Any, operation: Operation, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        parse(body, operation)


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        ({"messages": [{"role": "user", "content": {"parts": []}}], "max_tokens": -1, "stop": [13]}, Operation.CHAT),
        ({"messages": HELLO, "temperature": -1, "top_p": 2, "seed": 1.0, "images": [{"b64": "A"}]}, Operation.CHAT),
        ({"prompt": ["p"] * 2049, "stream": 1}, Operation.COMPLETION),
        ({"prompt_embeds": "AAAA"}, Operation.COMPLETION),
        ({"messages": HELLO}, Operation.EMBEDDING),
    ],
)
def test_what_only_the_server_behind_may_understand_is_as_if_absent_to_the_shim(
    body: dict[str, Any], operation: Operation
) -> None:
    request = parse(body, operation, unchecked=True)

    assert json.loads(request.raw) == body
    assert (request.max_tokens, request.temperature, request.top_p, request.stop) == (None, None, None, [])
    assert (request.seed, request.images, request.inputs, request.stream) == (None, [], [], False)


def test_llavas_bodies_are_read_whoever_serves_them() -> None:
    with pytest.raises(RequestError, match="'temperature'"):
        parse({"prompt": "p", "temperature": -1}, Operation.LLAVA, unchecked=True)


def test_a_request_knows_when_nobody_wants_it_any_more() -> None:
    stream = FakeStream()
    request = parse({"prompt": "p"}, stream=stream)
    assert not request.cancelled
    request.raise_if_cancelled()
    assert 50.0 < request.remaining() <= 60.0

    stream.cancel()

    assert request.cancelled
    with pytest.raises(Cancelled):
        request.raise_if_cancelled()


def test_a_request_is_cancelled_when_its_time_is_over() -> None:
    request = Request(model="m", deadline=time.monotonic())

    assert request.cancelled
    assert request.remaining() == 0.0


def test_the_default_seed_is_the_same_at_every_attempt_and_another_one_for_every_request() -> None:
    def seed(controller: str, stream: int, attempt: int) -> int:
        generate = Generate(controller, stream, attempt, "r-1", "m", Operation.COMPLETION, 60.0, b'{"prompt": "a"}')
        request = parse_request(generate, deadline=math.inf, suspect=False, link=FakeStream())
        assert request.seed is None
        return request.default_seed

    assert seed("c1", 1, attempt=1) == seed("c1", 1, attempt=4)
    seeds = {seed(f"c{controller}", stream, attempt=1) for controller in range(10) for stream in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= each < 2**31 for each in seeds)
