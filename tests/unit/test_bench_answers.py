"""The load generator counts an answer only if it is whole and right."""

import json

import pytest

from benchmarks.answers import Answer, echo_text, fault, read_answer, split_response
from benchmarks.canned import chunked_answer

PROMPT = "one two three"


def response(*events: str, status: str = "200 OK") -> bytes:
    body = "".join(f"data: {event}\n\n" for event in events).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def delta(content: str | None = None, finish_reason: str | None = None) -> str:
    return json.dumps({"choices": [{"delta": {"content": content}, "finish_reason": finish_reason}]})


def test_the_echo_engines_text_goes_round_the_prompts_words() -> None:
    assert echo_text(PROMPT, 5) == "one two three one two"


def test_a_whole_chunked_answer_has_no_fault() -> None:
    answer = read_answer(chunked_answer(PROMPT, 7))
    assert answer == Answer("one two three one two three one", None, 7)
    assert fault(answer, echo_text(PROMPT, 7), 7) is None


def test_an_answer_with_crlf_lines_and_comments_is_read_too() -> None:
    raw = response(delta("one"), delta(" two"), delta(finish_reason="length"), "[DONE]")
    raw = raw.replace(b"\n\ndata: ", b"\r\n\r\n: still here\r\n\r\ndata: ")
    assert read_answer(raw).text == "one two"


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        ([delta("one"), delta(" two"), "[DONE]"], "the stream ended without finish_reason"),
        ([delta("one"), delta(" two", "length")], "the stream ended without [DONE]"),
        ([delta("one"), '{"error": {"message": "lost"}}', "[DONE]"], "an error in the stream"),
        ([delta("one"), delta(" three", "length"), "[DONE]"], "wrong text"),
        ([delta("one two", "length"), "[DONE]"], "1 chunks instead of 2"),
        (["nonsense"], "an event is not a chunk"),
    ],
)
def test_what_is_wrong_with_a_stream_is_said(events: list[str], sentence: str) -> None:
    problem = fault(read_answer(response(*events)), "one two", 2)
    assert problem is not None
    assert problem.startswith(sentence)


def test_an_http_error_is_a_fault_with_its_text() -> None:
    assert read_answer(response("no such model", status="404 Not Found")).error == "HTTP 404: data: no such model\n\n"


def test_a_response_cut_in_the_middle_of_a_chunk_is_not_whole() -> None:
    whole = chunked_answer(PROMPT, 3)
    with pytest.raises(ValueError, match="middle of a chunk"):
        split_response(whole[: whole.index(b"two")] + b"\r\n")
    assert "not a whole response" in str(read_answer(whole[:-5]).error)
