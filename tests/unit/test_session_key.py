"""What tells that two requests can use the same KV cache."""

import json
import subprocess
import sys
from typing import Any

import pytest

from broker_controller.session_key import BLOCK_BYTES, MAX_BEGINNINGS, SessionKey, read_session

SYSTEM = {"role": "system", "content": "Be brief."}


def read(model: str = "m", header: bytes | None = None, **body: Any) -> SessionKey:
    key = read_session(model, json.dumps(body).encode(), header)
    assert key is not None
    return key


def chat(*texts: str, **body: Any) -> SessionKey:
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    return read(messages=[SYSTEM, *messages], **body)


def shares(key: SessionKey, other: SessionKey) -> int:
    """How many beginnings they have in common."""
    return len(set(key.beginnings) & set(other.beginnings))


# --- names


def test_a_header_is_above_the_cache_key_which_is_above_the_user_which_is_above_the_text() -> None:
    body: dict[str, Any] = {"prompt": "p", "user": "u", "prompt_cache_key": "k"}
    keys = [read(header=b"h", **body), read(**body)]
    del body["prompt_cache_key"]
    keys.append(read(**body))
    del body["user"]
    keys.append(read(**body))
    assert len({key.home for key in keys}) == 4
    assert keys[0] == read(header=b"h", prompt="another")
    assert keys[1] == read(prompt_cache_key="k", prompt="another")
    assert keys[2] == read(user="u", prompt="another")


@pytest.mark.parametrize("name", [None, "", 7, ["x"], {}])
def test_a_name_that_is_none_is_passed_over(name: Any) -> None:
    assert read(prompt="p", user=name, prompt_cache_key=name, header=b"") == read(prompt="p")


def test_two_models_have_two_caches() -> None:
    for body in ({"user": "u"}, {"prompt": "p"}, {"messages": [SYSTEM]}):
        assert not shares(read("m", **body), read("n", **body))


# --- chats


def test_a_turn_has_all_beginnings_of_the_turns_before_it() -> None:
    turns = [chat("hi"), chat("hi", "hello", "tell me"), chat("hi", "hello", "tell me", "this", "and?")]
    assert [len(turn.beginnings) for turn in turns] == [1, 3, 5]
    assert turns[2].beginnings[2:] == turns[1].beginnings
    assert {turn.home for turn in turns} == {turns[0].home}
    assert turns[0].home == turns[0].beginnings[-1]


def test_the_preamble_that_all_chats_share_is_no_session() -> None:
    assert not shares(chat("hi"), chat("good morning"))


def test_two_chats_that_begin_alike_are_told_apart_from_where_they_differ() -> None:
    one, other = chat("hi", "hello", "a?"), chat("hi", "how are you", "b?")
    assert shares(one, other) == 1
    assert one.home == other.home


def test_a_chat_without_a_word_of_the_users_is_known_by_all_of_it() -> None:
    key = read(messages=[SYSTEM, {"role": "tool", "content": "x"}])
    assert len(key.beginnings) == 1
    assert key != read(messages=[SYSTEM])


def test_a_long_chat_is_known_by_its_beginning() -> None:
    texts = [str(number) for number in range(300)]
    assert chat(*texts) == chat(*texts, "more", "and more")
    assert len(chat(*texts).beginnings) == MAX_BEGINNINGS - 1


def test_images_of_different_sizes_that_begin_alike_differ() -> None:
    assert chat("A" * 1_000_000) != chat("A" * 1_000_004)


# --- prompts


def test_a_prompt_that_goes_on_shares_the_blocks_of_the_one_before() -> None:
    first = "x" + "USER: hi ASSISTANT: hello " * 40
    key, longer = read(prompt=first), read(prompt=first + "USER: and? ASSISTANT:" * 20)
    assert shares(key, longer) == len(key.beginnings) == len(first) // BLOCK_BYTES
    assert key.home == longer.home


def test_a_short_prompt_is_known_by_all_of_it() -> None:
    assert len(read(prompt="a").beginnings) == 1
    assert read(prompt="a") != read(prompt="b")


def test_a_long_prompt_costs_no_more_than_its_beginning() -> None:
    assert len(read(prompt="word " * 200_000).beginnings) == MAX_BEGINNINGS


def test_a_prompt_may_be_a_list() -> None:
    assert read(prompt=[1, 2, 3]) == read(prompt=[1, 2, 3])
    assert read(prompt=["a", "b"]) != read(prompt=["a", "c"])


# --- the odd


@pytest.mark.parametrize(
    "body", [b"", b"no JSON", b"[]", b'{"messages": 1}', b'{"messages": [1, 2]}', b"{}", b'{"user": "\xff"}']
)
def test_what_is_no_request_has_no_session_and_raises_nothing(body: bytes) -> None:
    assert read_session("m", body, None) is None


def test_another_process_has_the_same_digests() -> None:
    program = "from tests.unit.test_session_key import chat; print(chat('hi').home.hex())"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == chat("hi").home.hex()
