"""The way out for the one answer of `check`: prints it as it comes, and measures. Used by `check`."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from broker_wire.messages import FailureKind, Usage
from workers_shim.request import Cancelled, Chunk

MAX_SHOWN = 2_000
"""Characters of JSON that is shown where it has no text."""


class Printer:
    """An `OutgoingStream` that ends at standard output.

    Attributes:
        failure: what the answer ended with, if it was an error.
    """

    def __init__(self) -> None:
        self.failure: tuple[FailureKind, str] | None = None
        self._asked = time.monotonic()
        self._first: float | None = None
        self._last = self._asked
        self._chunks = 0
        self._end: tuple[str, Usage | None] = ("", None)
        self._cancelled = False
        self._on_cancelled: list[Callable[[], None]] = []
        self._released = threading.Event()

    # --- what the engine's side calls

    @property
    def cancelled(self) -> bool:
        """The user has pressed Ctrl-C."""
        return self._cancelled

    def on_cancelled(self, callback: Callable[[], None]) -> None:
        """There is one thread that cancels, and it waits until the engine has begun."""
        self._on_cancelled.append(callback)
        if self._cancelled:
            callback()

    def offer(self, item: str | Chunk) -> bool:
        """Print it. Raises: Cancelled."""
        if self._cancelled:
            raise Cancelled
        self._last = time.monotonic()
        if self._first is None:
            self._first = self._last
        self._chunks += 1
        _write(item if isinstance(item, str) else shown(item))
        return True

    def wait_writable(self, timeout: float) -> bool:  # noqa: ARG002 - as the protocol has it
        """A terminal holds nobody back."""
        return True

    def on_writable(self, callback: Callable[[], None]) -> None:
        """As above."""
        callback()

    def progress(self) -> None:
        """Nobody waits with a limit."""

    def end(self, finish_reason: str = "stop", usage: Usage | None = None) -> None:
        """The answer is complete."""
        self._end = (finish_reason, usage)

    def fail(self, kind: FailureKind, message: str, *, code: str = "", param: str = "") -> None:
        """It is not."""
        named = [f"{name} {value!r}" for name, value in (("code", code), ("param", param)) if value]
        self.failure = (kind, f"{message} ({', '.join(named)})" if named else message)

    def released(self) -> None:
        """The engine has come back."""
        self._released.set()

    # --- what `check` calls

    def released_within(self, seconds: float) -> bool:
        """Wait for the engine."""
        return self._released.wait(seconds)

    def cancel(self) -> None:
        """As if the client had left."""
        self._cancelled = True
        for callback in self._on_cancelled:
            callback()

    def line(self, name: str, text: str) -> None:
        """A fact."""
        _write(f"{name:<14} {text}\n")

    def blank(self) -> None:
        """Between facts and the answer."""
        _write("\n")

    def report(self) -> Iterator[tuple[str, str]]:
        """The facts of a complete answer."""
        _write("\n")
        reason, usage = self._end
        yield "finish_reason", reason
        if usage is None:
            yield "usage", f"the engine counts no tokens; {self._chunks} chunks"
        else:
            yield "usage", f"{usage.prompt_tokens} tokens of the prompt, {usage.completion_tokens} of the answer"
        total = time.monotonic() - self._asked
        if self._first is None:
            yield "time", f"{total:.3f} s, and there was no chunk"
            return
        first, spent = self._first - self._asked, self._last - self._first
        speed = ""
        if spent > 0 and self._chunks > 1:
            count, unit = (self._chunks, "chunks") if usage is None else (usage.completion_tokens, "tokens")
            speed = f", then {(count - 1) / spent:.1f} {unit}/s"
        yield "time", f"first token after {first:.3f} s{speed}; {total:.3f} s in all"


def shown(chunk: Chunk) -> str:
    """What a person wants to see of a chunk: its text; of JSON without text, the JSON."""
    if chunk.payload is None:
        return chunk.text
    try:
        answer = msgspec.json.decode(chunk.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return chunk.payload.decode(errors="replace")[:MAX_SHOWN]
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list):
        return _shown_embeddings(answer) or _json(answer)
    return "".join(_shown_choice(choice) for choice in choices if isinstance(choice, dict))


def _shown_choice(choice: dict[str, Any]) -> str:
    said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
    # Text that is no part of the answer, as reasoning or a tool call: as it is, so that it is seen to come.
    rest = {key: value for key, value in said.items() if value and key not in ("role", "content")}
    text = said.get("content")
    return (text if isinstance(text, str) else "") + (_json(rest) + "\n" if rest else "")


def _shown_embeddings(answer: Any) -> str:
    """Of a server's whole answer, or of the one vector that the shim has made a chunk of."""
    if not isinstance(answer, dict):
        return ""
    data = answer.get("data", [answer])
    vectors = [each.get("embedding") for each in data if isinstance(each, dict)] if isinstance(data, list) else []
    return "".join(f"a vector of {len(vector)} numbers\n" for vector in vectors if isinstance(vector, list))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()[:MAX_SHOWN]


def _write(text: str) -> None:
    # A model may say what a terminal takes for a command.
    sys.stdout.write("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text))
    sys.stdout.flush()
