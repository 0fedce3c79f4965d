"""How llama.cpp's chunks become ours; what the real model of the other tests never sends."""

from typing import Any

import msgspec
import pytest

from workers_shim import Chunk, Request, RequestError, Usage
from workers_shim.engines.llamacpp_generation import ChunkReader


def of_chat(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": None, "delta": delta}]}


def reader(had: int = 0, index: int = 0, **parameters: Any) -> ChunkReader:
    return ChunkReader(Request(model="m", parameters=parameters), had, index)


CALL = of_chat(tool_calls=[{"index": 0, "function": {"name": "weather"}}]) | {"model": "/a/path.gguf", "id": "x"}
END = {"choices": [{"index": 0, "finish_reason": "tool_calls", "delta": {}}], "timings": {"ms": 1}}
COUNTS = {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3}}


def payload_of(item: str | Chunk) -> dict[str, Any]:
    assert isinstance(item, Chunk)
    assert item.payload is not None
    payload: dict[str, Any] = msgspec.json.decode(item.payload)
    return payload


def test_a_tool_call_is_carried_as_it_came_but_for_the_files_path() -> None:
    [item] = reader().read(CALL)

    assert payload_of(item) == CALL | {"model": "m"}


def test_after_a_tool_call_the_end_is_carried_too_without_llama_cpps_times() -> None:
    chunks = reader()
    list(chunks.read(CALL))
    [end] = chunks.read(END)

    assert payload_of(end) == {"choices": END["choices"], "model": "m"}
    assert isinstance(end, Chunk)
    assert end.finish_reason == "tool_calls"


def test_a_text_is_carried_as_text_with_its_end() -> None:
    chunks = reader()

    assert list(chunks.read(of_chat(content="a"))) == ["a"]
    assert list(chunks.read(END)) == [Chunk(finish_reason="tool_calls")]
    assert list(chunks.read(COUNTS)) == [Chunk(usage=Usage(12, 3))]


def test_a_choice_has_its_number_in_text_end_and_payload() -> None:
    chunks = reader(index=2)
    [text] = chunks.read(of_chat(content="a"))
    [call] = chunks.read(CALL)
    [end] = chunks.read(END)

    assert text == Chunk("a", index=2)
    assert isinstance(end, Chunk)
    assert end.index == 2
    assert [payload_of(item)["choices"][0]["index"] for item in (call, end)] == [2, 2]


def test_the_first_chunk_of_a_chat_has_nothing_to_say() -> None:
    assert list(reader().read(of_chat(role="assistant", content=None))) == []


def test_tokens_that_came_with_the_prompt_count_as_the_answers() -> None:
    assert list(reader(had=5).read(COUNTS)) == [Chunk(usage=Usage(7, 8))]


def test_an_error_of_the_server_is_no_fault_of_the_request() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        list(reader().read({"error": {"code": 500, "message": "out of memory"}}))
    with pytest.raises(RequestError, match="too long"):
        list(reader().read({"error": {"code": 400, "message": "too long"}}))
