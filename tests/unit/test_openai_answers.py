"""What a server's answers and errors mean for a request."""

import json
from typing import Any

import pytest

from workers_shim import Chunk, RequestError, Unavailable, Usage
from workers_shim.engines.openai_answers import (
    BusyError,
    ChunkStream,
    ModelGoneError,
    ServerError,
    error_message,
    failure_of,
    read_chunk,
)


def test_a_chunk_is_carried_as_it_came_and_its_end_and_counts_are_read() -> None:
    data = (
        b'{"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}'
    )

    assert read_chunk(data, as_text=False) == Chunk(payload=data, finish_reason="stop", usage=Usage(3, 4))


@pytest.mark.parametrize(
    ("choice", "text"),
    [({"delta": {"content": "a"}}, "a"), ({"text": "b"}, "b"), ({"delta": {"role": "assistant", "content": None}}, "")],
)
def test_for_llavas_clients_a_chunk_is_its_text(choice: dict[str, Any], text: str) -> None:
    assert read_chunk(json.dumps({"choices": [choice]}).encode(), as_text=True) == Chunk(text)


@pytest.mark.parametrize(
    "data",
    [b'{"choices": null}', b'{"choices": [], "usage": null}', b'{"object": "list", "data": [1], "usage": {"x": 1}}'],
)
def test_what_nobody_here_knows_is_carried_too(data: bytes) -> None:
    assert read_chunk(data, as_text=False) == Chunk(payload=data)


def test_an_embedding_counts_the_prompt_alone() -> None:
    data = b'{"data": [], "usage": {"prompt_tokens": 3, "total_tokens": 3}}'

    assert read_chunk(data, as_text=False).usage == Usage(3, 0)


@pytest.mark.parametrize("data", [b"hello", b"[1]", b'"x"', b'{"choices": ', b"\xff"])
def test_what_is_no_object_is_the_servers_failure(data: bytes) -> None:
    with pytest.raises(ServerError, match="no JSON object"):
        read_chunk(data, as_text=False)


def test_an_error_in_the_middle_is_the_requests_only_when_it_says_so() -> None:
    with pytest.raises(ServerError, match="out of memory"):
        read_chunk(b'{"error": {"code": 500, "message": "out of memory"}}', as_text=False)
    with pytest.raises(ServerError, match="out of memory"):
        read_chunk(b'{"error": "out of memory"}', as_text=False)
    with pytest.raises(RequestError, match="too long"):
        read_chunk(b'{"error": {"code": 400, "message": "too long"}}', as_text=False)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestError),
        (413, RequestError),
        (422, RequestError),
        (501, RequestError),
        (401, Unavailable),
        (403, Unavailable),
        (429, BusyError),
        (503, BusyError),
        (500, ServerError),
        (502, ServerError),
        (301, ServerError),
    ],
)
def test_whose_fault_a_status_is(status: int, kind: type[Exception]) -> None:
    failure = failure_of(status, b'{"error": {"message": "the words of the server"}}')

    assert type(failure) is kind
    assert "the words of the server" in str(failure)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b'{"error": {"message": "m", "code": "too_long", "param": "messages"}}', "too_long", "messages"),
        (b'{"message": "m", "code": "too_long"}', "too_long", ""),
        (b'{"error": {"message": "m", "code": 400, "param": null}}', "", ""),
        (
            b'{"error": {"message": "m", "code": 400, "type": "exceed_context_size_error"}}',
            "context_length_exceeded",
            "",
        ),
        (b'{"error": "m"}', "", ""),
        (b"m", "", ""),
    ],
)
def test_a_refusal_has_the_servers_words_for_programs(body: bytes, code: str, param: str) -> None:
    failure = failure_of(400, body)

    assert isinstance(failure, RequestError)
    assert (str(failure), failure.code, failure.param) == ("m", code, param)


def test_a_model_that_is_not_there_is_no_fault_of_the_request_and_a_path_is() -> None:
    assert type(failure_of(404, b'{"message": "The model `x` does not exist."}')) is ModelGoneError
    assert type(failure_of(404, b'{"detail": "Not Found"}')) is RequestError


@pytest.mark.parametrize(
    ("retry_after", "pause"), [("", 1.0), ("0", 0.0), ("1", 1.0), ("3600", 2.0), ("Wed, 21 Oct", 1.0)]
)
def test_a_busy_server_says_when_to_come_again_within_bounds(retry_after: str, pause: float) -> None:
    failure = failure_of(429, b"", retry_after)

    assert isinstance(failure, BusyError)
    assert failure.pause == pause


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "one"}}', "one"),
        (b'{"error": "two"}', "two"),
        (b'{"object": "error", "message": "three"}', "three"),
        (b'{"detail": [{"loc": ["body"], "msg": "four"}]}', '[{"loc":["body"],"msg":"four"}]'),
        (b"<html>\n<b>502</b>", "<html> <b>502</b>"),
        (b'{"error": {"code": 1}}', '{"code":1}'),
        (b"", ""),
        (b"x" * 5_000, "x" * 1_000),
    ],
)
def test_a_servers_sentence_is_found_however_it_is_written(body: bytes, message: str) -> None:
    assert error_message(body) == message


def test_a_stream_has_its_end_with_done_or_with_a_reason() -> None:
    by_done, by_reason, neither = (ChunkStream(as_text=False) for _ in range(3))
    list(by_done.feed(b'data: {"choices": []}\n\ndata: [DONE]\n\ndata: never read\n\n'))
    list(by_reason.feed(b'data: {"choices": [{"finish_reason": "stop"}]}\n'))
    list(neither.feed(b'data: {"choices": []}\n\n'))
    assert not by_reason.has_end
    assert len(list(by_reason.finish())) == 1

    assert (by_done.done, by_done.has_end) == (True, True)
    assert (by_reason.done, by_reason.has_end) == (False, True)
    assert (neither.done, neither.has_end) == (False, False)


def test_what_came_before_an_error_is_not_lost() -> None:
    chunks = ChunkStream(as_text=False).feed(b'data: {"choices": []}\n\ndata: {"error": "x"}\n\n')

    assert next(chunks).payload == b'{"choices": []}'
    with pytest.raises(ServerError):
        next(chunks)
