"""How llama.cpp's chunks become ours; what the real model of the other tests never sends."""

from typing import Any

import msgspec
import pytest

from workers_shim import Chunk, RequestError, Usage
from workers_shim.engines.llamacpp_generation import read_chunk


def of_chat(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": None, "delta": delta}]}


def test_a_tool_call_is_carried_as_it_came() -> None:
    chunk = of_chat(tool_calls=[{"index": 0, "function": {"name": "weather"}}])
    [item] = read_chunk(chunk, 0)

    assert isinstance(item, Chunk)
    assert item.payload is not None
    assert msgspec.json.decode(item.payload) == chunk


def test_the_first_chunk_of_a_chat_has_nothing_to_say() -> None:
    assert list(read_chunk(of_chat(role="assistant", content=None), 0)) == []


def test_tokens_that_came_with_the_prompt_count_as_the_answers() -> None:
    chunk = {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3}}

    assert list(read_chunk(chunk, 5)) == [Chunk(usage=Usage(7, 8))]


def test_an_error_of_the_server_is_no_fault_of_the_request() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        list(read_chunk({"error": {"code": 500, "message": "out of memory"}}, 0))
    with pytest.raises(RequestError, match="too long"):
        list(read_chunk({"error": {"code": 400, "message": "too long"}}, 0))
