"""Was the streamed answer complete and right? Pure functions over the bytes that the load generator recorded.

Called by load.py after a round, never during it: checking costs more than receiving, and must not slow the round.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from workers_shim.engines.echo_embeddings import DEFAULT_DIMENSIONS, vector_of

# A delta that carries text; the one before it may carry only the role, with an empty content.
_CONTENT = re.compile(rb'"content":\s?"[^"]')
_OBJECT = re.compile(rb'"error_code"[^\0]*\0')
_VECTOR = re.compile(rb'"embedding":')

# Some servers end lines with CRLF.
_EVENT_END = re.compile(rb"\r?\n\r?\n")


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode


class _Object(msgspec.Struct):
    text: str
    error_code: int


class _Vector(msgspec.Struct):
    embedding: list[float]


class _Vectors(msgspec.Struct):
    data: list[_Vector]


class Answer(msgspec.Struct, frozen=True):
    """What one answer held. `error` is None for a complete answer, else one sentence."""

    text: str
    error: str | None
    chunks: int | None = None
    """None in a protocol where a server may leave some out."""


class Protocol(msgspec.Struct, frozen=True):
    """How one is asked and answers.

    Attributes:
        token: what is in every part of an answer that carries text, and in nothing else.
        read: the answer in a recorded response to a prompt.
        expected: the text of the right answer to a prompt, of so many tokens.
    """

    name: str
    path: str
    token: re.Pattern[bytes]
    read: Callable[[bytes, str], Answer]
    expected: Callable[[str, int], str]


def echo_text(prompt: str, tokens: int) -> str:
    """What the echo engine answers: token i is word i modulo k of the prompt's k words, joined by single spaces."""
    words = prompt.split()
    return " ".join(words[i % len(words)] for i in range(tokens))


def split_response(raw: bytes) -> tuple[int, bytes]:
    """Status and body of one recorded HTTP/1.1 response; a chunked body comes back joined.

    Raises:
        ValueError: the bytes are not one whole response.
    """
    head, found, rest = raw.partition(b"\r\n\r\n")
    if not found:
        raise ValueError("the response's head is not complete")
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" not in head.lower():
        return status, rest
    return status, _join_chunks(rest)


def _join_chunks(data: bytes) -> bytes:
    parts: list[bytes] = []
    position = 0
    while True:
        line_end = data.find(b"\r\n", position)
        if line_end < 0:
            raise ValueError("the chunked body ends in the middle of a chunk")
        size = int(data[position:line_end], 16)
        if size == 0:
            return b"".join(parts)
        position = line_end + 2
        parts.append(data[position : position + size])
        position += size + 2


def read_answer(raw: bytes) -> Answer:
    """The text of a recorded chat completion stream, and what is wrong with it."""
    body = _body(raw)
    if isinstance(body, Answer):
        return body
    pieces: list[str] = []
    finished = done = False
    for event in _EVENT_END.split(body):
        payload = event.removeprefix(b"data:").strip()
        if not event.startswith(b"data:"):  # a comment, or what follows the last event
            continue
        if payload == b"[DONE]":
            done = True
            continue
        try:
            message = _decode_event(payload)
        except msgspec.DecodeError as error:
            return Answer("".join(pieces), f"an event is not a chunk: {error}", len(pieces))
        if message.error is not None:
            return Answer("".join(pieces), f"an error in the stream: {message.error}", len(pieces))
        for choice in message.choices:
            finished = finished or choice.finish_reason is not None
            if choice.delta.content:
                pieces.append(choice.delta.content)
    missing = "finish_reason" if not finished else "[DONE]" if not done else None
    problem = f"the stream ended without {missing}" if missing else None
    return Answer("".join(pieces), problem, len(pieces))


def read_cumulative_answer(raw: bytes, prompt: str) -> Answer:
    """The text of a recorded answer in LLaVA's protocol, and what is wrong with it. It begins with the prompt."""
    body = _body(raw)
    if isinstance(body, Answer):
        return body
    *objects, rest = body.split(b"\0")
    if rest or not objects:
        return Answer("", "the stream ended in the middle of an object")
    try:
        last = msgspec.json.decode(objects[-1], type=_Object)
    except msgspec.DecodeError as error:
        return Answer("", f"an object cannot be read: {error}")
    if last.error_code or not last.text.startswith(prompt):
        return Answer(last.text, f"an error in the stream: {last.text}")
    return Answer(last.text.removeprefix(prompt), None)


def read_vector(raw: bytes) -> Answer:
    """The one vector of a recorded answer, as text."""
    body = _body(raw)
    if isinstance(body, Answer):
        return body
    try:
        [vector] = msgspec.json.decode(body, type=_Vectors).data
    except (msgspec.DecodeError, ValueError) as error:
        return Answer("", f"not one vector: {error}")
    return Answer(repr(vector.embedding), None)


def echo_vector(prompt: str, _tokens: int) -> str:
    """What the echo engine makes of it, as text."""
    return repr(vector_of(prompt, DEFAULT_DIMENSIONS))


def _body(raw: bytes) -> bytes | Answer:
    try:
        status, body = split_response(raw)
    except ValueError as error:
        return Answer("", f"not a whole response: {error}")
    if status != 200:
        return Answer("", f"HTTP {status}: {body[:200].decode(errors='replace')}")
    return body


OPENAI = Protocol("openai", "/v1/chat/completions", _CONTENT, lambda raw, _prompt: read_answer(raw), echo_text)
LLAVA = Protocol("llava", "/worker_generate_stream", _OBJECT, read_cumulative_answer, echo_text)
EMBEDDINGS = Protocol("embeddings", "/v1/embeddings", _VECTOR, lambda raw, _prompt: read_vector(raw), echo_vector)


def fault(answer: Answer, expected_text: str, tokens: int) -> str | None:
    """Why this answer does not count: an error, another text than asked for, or not one event for each token."""
    if answer.error is not None:
        return answer.error
    if answer.text != expected_text:
        return f"wrong text: {len(answer.text)} characters instead of {len(expected_text)}: {answer.text[:60]!r}"
    if answer.chunks not in (None, tokens):
        return f"{answer.chunks} chunks instead of {tokens}"
    return None
