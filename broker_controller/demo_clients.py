"""The demo's two clients: OpenAI's protocol, and LLaVA's as its own web server speaks it. Used by demo.py alone.

Each yields an answer's text piece by piece, as it is generated, and measures.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx

MAX_TOKENS = 160
_SECONDS = 120.0  # between two pieces of an answer


class AnswerError(RuntimeError):
    """The controller answered with an error, or not as the protocol says."""


class Stopwatch:
    """Times of one answer."""

    def __init__(self) -> None:
        self._asked = time.monotonic()
        self._first = 0.0
        self._last = 0.0
        self.tokens = 0

    def piece(self) -> None:
        """Text has come."""
        self._last = time.monotonic()
        self._first = self._first or self._last

    def report(self) -> str:
        """One line: the time to the first token in milliseconds, and the tokens of each second after it."""
        if not self._first:
            raise AnswerError("the answer is empty")
        rate = (self.tokens - 1) / max(self._last - self._first, 1e-3)
        to_first = (self._first - self._asked) * 1000
        return f"TTFT {to_first:.0f} ms, {self.tokens} tokens, {rate:.0f} tokens/s"


def ask_openai(http: httpx.Client, model: str, question: str, watch: Stopwatch) -> Iterator[str]:
    """POST /v1/chat/completions with `stream`: server-sent events, each with what is new.

    Raises:
        AnswerError: an error instead of an answer, or an answer that breaks off.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with http.stream("POST", "/v1/chat/completions", json=body, timeout=_SECONDS) as response:
        _expect_ok(response)
        for line in response.iter_lines():
            field, _, data = line.partition(": ")
            if field != "data":
                continue
            if data == "[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                raise AnswerError(event["error"]["message"])
            if event.get("usage"):
                watch.tokens = event["usage"]["completion_tokens"]
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    watch.piece()
                    yield text
    raise AnswerError("the stream ended without [DONE]")


def ask_llava(http: httpx.Client, model: str, question: str, watch: Stopwatch) -> Iterator[str]:
    """Ask the controller for a worker's address, then that worker: NUL-delimited JSON, each with the whole text so far.

    Raises:
        AnswerError: no worker, or an error instead of an answer.
    """
    address = http.post("/get_worker_address", json={"model": model}).raise_for_status().json()["address"]
    if not address:
        raise AnswerError(f"the controller knows no worker for the model {model}")
    body = {
        "model": model,
        # In this protocol the client applies the model's conversation template.
        "prompt": f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
        "stop": "<|im_end|>",
        "temperature": 0,
        "max_new_tokens": MAX_TOKENS,
        "echo": False,
    }
    shown = 0
    with http.stream("POST", f"{address}/worker_generate_stream", json=body, timeout=_SECONDS) as response:
        _expect_ok(response)
        for answer in _nul_delimited(response.iter_bytes()):
            if answer["error_code"] != 0:
                raise AnswerError(answer["text"])
            if answer.get("usage"):
                watch.tokens = answer["usage"]["completion_tokens"]
            if text := answer["text"][shown:]:
                shown += len(text)
                watch.piece()
                yield text


def _nul_delimited(received: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    rest = b""
    for part in received:
        *whole, rest = (rest + part).split(b"\0")
        yield from map(json.loads, filter(None, whole))  # an empty one says: still waiting
    if rest:
        raise AnswerError("the stream ended in the middle of an answer")


def _expect_ok(response: httpx.Response) -> None:
    if response.status_code != httpx.codes.OK:
        response.read()
        raise AnswerError(f"HTTP {response.status_code}: {response.text}")
