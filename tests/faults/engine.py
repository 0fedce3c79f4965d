"""A worker program for the fault tests: repeats the prompt's words, and the prompt says what goes wrong on the way.

    pause:S        S seconds before the first token; not where the answer goes on from a prefix
    block:N:S      the thread sleeps for S seconds after N tokens, in the first attempt alone
    raise:N        raises after N tokens
    raise-once:N   the same, in the first attempt alone
    refuse         the request's own fault
    poison:N       the process is killed as by out-of-memory, once the answer has N tokens

Started as `python -m tests.faults.engine`; it uses the shim's public API only. `expected` is the whole right text.
"""

import argparse
import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from broker_wire.log_lines import log_to_stderr
from broker_wire.topology import QueueBounds, QueueType
from workers_shim import Chunk, Request, RequestError, Usage, Worker
from workers_shim.config import GRACE

ENGINE_SAYS = "the test's engine fails here"
_LOOK_INTERVAL = 0.05
"""Seconds between two looks at whether anybody still wants the answer."""


def expected(prompt: str, tokens: int) -> str:
    """The whole answer: the prompt's words again and again, one a token, joined by single spaces."""
    return "".join(_token(prompt.split(), index) for index in range(tokens))


def _token(words: list[str], index: int) -> str:
    return f" {words[index % len(words)]}" if index else words[0]


class Script:
    """What the words of one prompt ask for."""

    def __init__(self, prompt: str) -> None:
        self._steps = dict[str, list[float]]()
        for word in prompt.split():
            name, *numbers = word.split(":")
            if name in ("pause", "block", "raise", "raise-once", "refuse", "poison"):
                self._steps[name] = [float(number) for number in numbers]

    @property
    def refuses(self) -> bool:
        return "refuse" in self._steps

    @property
    def pause(self) -> float:
        return self._steps.get("pause", [0.0])[0]

    def block(self, index: int, *, first_attempt: bool) -> float:
        after, seconds = self._steps.get("block", (-1.0, 0.0))
        return seconds if first_attempt and index == after else 0.0

    def raises(self, index: int, *, first_attempt: bool) -> bool:
        once = first_attempt and self._steps.get("raise-once") == [index]
        return once or self._steps.get("raise") == [index]

    def kills(self, index: int) -> bool:
        return index >= self._steps.get("poison", [float("inf")])[0]


class Engine:
    """Answers at a pace of its own. `journal` is a folder with one file a prompt, to which each start adds a line."""

    def __init__(self, name: str, tokens_per_second: float, journal: Path) -> None:
        self._name = name
        self._interval = 1.0 / tokens_per_second
        self._journal = journal

    def generate(self, request: Request) -> Iterator[str | Chunk]:
        """Raises: RequestError; RuntimeError, where the prompt wants it."""
        prompt = _prompt_of(request)
        first_attempt = note_start(self._journal, prompt, self._name) == 1
        script = Script(prompt)
        if script.refuses:
            raise RequestError("the test's engine refuses this")
        words, count = prompt.split(), request.max_tokens or 64
        begin = len(request.resume_text.split())
        if not begin:
            _wait(request, script.pause)
        began = time.monotonic()
        for index in range(begin, count):
            _wait(request, began + (index - begin) * self._interval - time.monotonic())
            if script.kills(index):
                os.kill(os.getpid(), signal.SIGKILL)
            if script.raises(index, first_attempt=first_attempt):
                raise RuntimeError(ENGINE_SAYS)
            _sleep(script.block(index, first_attempt=first_attempt))
            yield _token(words, index)
        yield Chunk(finish_reason="length", usage=Usage(len(words), count))


def note_start(journal: Path, prompt: str, worker: str) -> int:
    """Write down that a worker began with this prompt; which attempt it is."""
    with _page(journal, prompt).open("a") as lines:
        lines.write(f"{time.monotonic()} {worker}\n")
    return len(starts_of(journal, prompt))


def starts_of(journal: Path, prompt: str) -> list[tuple[float, str]]:
    """When which worker began with this prompt, in order. All processes of a machine share the monotonic clock."""
    page = _page(journal, prompt)
    lines = page.read_text().splitlines() if page.exists() else []
    return [(float(at), worker) for at, _, worker in (line.partition(" ") for line in lines)]


def _page(journal: Path, prompt: str) -> Path:
    return journal / hashlib.blake2s(prompt.encode(), digest_size=12).hexdigest()


def _wait(request: Request, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        request.raise_if_cancelled()
        _sleep(min(left, _LOOK_INTERVAL))


def _sleep(seconds: float) -> None:
    # Not time.sleep: libfaketime takes its wait until a monotonic time for one until a time of the day.
    threading.Event().wait(seconds)


def _prompt_of(request: Request) -> str:
    return str(request.messages[-1]["content"]) if request.messages else request.prompt or ""


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="m")
    parser.add_argument("--name", required=True)
    parser.add_argument("--broker-url", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--tokens-per-second", type=float, default=20.0)
    parser.add_argument("--resume", choices=("prefix", "replay", "never"), default="prefix")
    parser.add_argument("--drain-timeout", type=float, default=600.0)
    parser.add_argument("--grace", type=float, default=GRACE)
    parser.add_argument("--queue-limit", type=int, default=QueueBounds().max_length)
    parser.add_argument("--queue-bytes", type=int, default=QueueBounds().max_bytes)
    parser.add_argument("--queue-type", type=QueueType, default=QueueBounds().type)
    options = parser.parse_args()
    log_to_stderr("info")
    worker = Worker(
        options.name,
        slots=options.slots,
        broker_url=options.broker_url,
        prefix=options.prefix,
        drain_timeout=options.drain_timeout,
        bounds=QueueBounds(options.queue_limit, options.queue_bytes, options.queue_type),
        grace=options.grace,
    )
    engine = Engine(options.name, options.tokens_per_second, options.journal)
    worker.add_model(options.model, engine.generate, resume=options.resume)
    worker.run()


if __name__ == "__main__":
    main()
