"""Was the streamed answer complete and right? Pure functions over the bytes that the load generator recorded.

Called by load.py after a round, never during it: checking costs more than receiving, and must not slow the round.
"""

import re
from typing import Any

import msgspec

# The first delta that carries text; the one before it may carry only the role, with an empty content.
FIRST_CONTENT = re.compile(rb'"content":\s?"[^"]')

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


class Answer(msgspec.Struct, frozen=True):
    """What one streamed chat completion held. `error` is None for a complete answer, else one sentence."""

    chunks: int
    text: str
    error: str | None


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
    try:
        status, body = split_response(raw)
    except ValueError as error:
        return Answer(0, "", f"not a whole response: {error}")
    if status != 200:
        return Answer(0, "", f"HTTP {status}: {body[:200].decode(errors='replace')}")
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
            return Answer(len(pieces), "".join(pieces), f"an event is not a chunk: {error}")
        if message.error is not None:
            return Answer(len(pieces), "".join(pieces), f"an error in the stream: {message.error}")
        for choice in message.choices:
            finished = finished or choice.finish_reason is not None
            if choice.delta.content:
                pieces.append(choice.delta.content)
    missing = "finish_reason" if not finished else "[DONE]" if not done else None
    return Answer(len(pieces), "".join(pieces), f"the stream ended without {missing}" if missing else None)


def fault(answer: Answer, expected_text: str, tokens: int) -> str | None:
    """Why this answer does not count: an error, another text than asked for, or not one event for each token."""
    if answer.error is not None:
        return answer.error
    if answer.text != expected_text:
        return f"wrong text: {len(answer.text)} characters instead of {len(expected_text)}: {answer.text[:60]!r}"
    if answer.chunks != tokens:
        return f"{answer.chunks} chunks instead of {tokens}"
    return None
