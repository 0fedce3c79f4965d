"""`python -m benchmarks.affinity`: the time to the first token of chats that go on, by dispatch method.

Two workers run a real model by llama.cpp. Each chat has a long beginning of its own, and takes turns with the others in
an order that is drawn; under `queue` and `affinity` alike, one request at a time. What is measured is therefore the
engine's own cache: whether the worker that a turn comes to has read the chat before.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from functools import partial

import httpx
from msgspec import Struct

from benchmarks.__main__ import machine
from benchmarks.figures import percentile, show, table
from benchmarks.processes import Processes, StartError
from benchmarks.stack import PREFIX, broker_of_run, has_workers, start_controller
from broker_controller.local_broker import NoBrokerError
from broker_controller.private_node import PrivateNodeError

MODEL = "chat"
WORKERS = ("w1", "w2")
CHATS = 6
TURNS = 3
SLOTS = CHATS
"""Each a cache of llama.cpp's: a worker could keep every chat, so that what is not there was never there."""
CONTEXT_LENGTH = 2_048
SENTENCES = 60
"""Of a chat's beginning: some 700 tokens."""
ANSWER_TOKENS = 8
REQUEST_TIMEOUT = 300.0  # seconds
SEED = 1


class Turn(Struct, frozen=True):
    """One request. Times in seconds."""

    first_token: float
    warm: bool
    """The worker had answered this chat before."""


class Chat:
    """Grows by what is asked and answered."""

    def __init__(self, name: str) -> None:
        self.messages = [
            {"role": "system", "content": f"Harbour {name} writes down every ship that comes. " * SENTENCES}
        ]
        self._known_by: set[str] = set()

    def ask(self, client: httpx.Client, base: str, question: str) -> Turn:
        """Raises: httpx.HTTPError, ValueError for an answer that is an error."""
        self.messages.append({"role": "user", "content": question})
        body = {"model": MODEL, "messages": self.messages, "max_tokens": ANSWER_TOKENS, "stream": True, "seed": SEED}
        sent, first, texts = time.perf_counter(), 0.0, []
        with client.stream("POST", f"{base}/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if text := _text_of(line):
                    first = first or time.perf_counter()
                    texts.append(text)
            worker = response.headers["x-worker"]
        self.messages.append({"role": "assistant", "content": "".join(texts)})
        warm = worker in self._known_by
        self._known_by.add(worker)
        return Turn(first - sent, warm)


def _text_of(line: str) -> str:
    """Raises: ValueError."""
    data = line.removeprefix("data: ")
    if data == line or data == "[DONE]":
        return ""
    event = json.loads(data)
    if "error" in event:
        raise ValueError(event["error"]["message"])
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


def converse(base: str, client: httpx.Client) -> list[Turn]:
    """All turns of all chats, each round of them in an order of its own."""
    chats = [Chat(name) for name in "ABCDEFGH"[:CHATS]]
    drawn = random.Random(SEED)
    turns: list[Turn] = []
    for number in range(TURNS):
        question = f"How many came on day {number}?"
        turns += [chat.ask(client, base, question) for chat in drawn.sample(chats, CHATS)]
    return turns


def measure(broker_url: str, method: str) -> list[Turn]:
    """With a controller and workers of its own, whose caches are empty. Raises: StartError."""
    with Processes() as processes, httpx.Client(timeout=REQUEST_TIMEOUT) as client:
        base, _ = start_controller(processes, broker_url, "--dispatch-method", method, "--first-token-timeout", "300")
        for number, name in enumerate(WORKERS, 1):
            command = [sys.executable, "-m", "workers_shim", "llamacpp", "--model", MODEL, "--name", name]
            options = ["--slots", str(SLOTS), "--context-length", str(CONTEXT_LENGTH), "--log-level", "warning"]
            broker = ["--broker-url", broker_url, "--prefix", PREFIX]
            processes.start(name, [*command, *options, *broker], partial(has_workers, base, number), timeout=120)
        return converse(base, client)


def row(method: str, turns: list[Turn]) -> list[str]:
    """Of the turns after each chat's first one, which no cache can have."""
    later = turns[CHATS:]
    times = [turn.first_token for turn in later]
    warm = [turn.first_token for turn in later if turn.warm]
    cold = [turn.first_token for turn in turns if not turn.warm]
    return [
        method,
        f"{len(warm)} of {len(later)}",
        show(statistics.mean(times)),
        show(percentile(times, 95)),
        show(percentile(warm, 50)),
        show(percentile(cold, 50)),
    ]


def main() -> int:
    argparse.ArgumentParser(prog="python -m benchmarks.affinity", description=__doc__).parse_args()
    before = os.getloadavg()[0]
    try:
        with broker_of_run() as broker:
            facts = machine(broker.describe())
            rows = [row(method, measure(broker.url, method)) for method in ("queue", "affinity")]
    except (NoBrokerError, PrivateNodeError, StartError, httpx.HTTPError, ValueError) as error:
        print(f"the benchmark could not be run: {error}", file=sys.stderr)
        return 1
    facts["load average"] = f"{before:.1f} before, {os.getloadavg()[0]:.1f} after"
    header = ["dispatch", "warm turns", "first token, mean, s", "p95, s", "warm p50, s", "cold p50, s"]
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(f"\n{CHATS} chats of {TURNS} turns, {len(WORKERS)} workers\n\n{table(header, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
