"""Asks the running containers as clients do. Used by scripts/test-compose.sh; needs nothing but Python.

python3 compose/ask.py http://localhost:21001 workers 3     waits until exactly three are heard of and ready
python3 compose/ask.py http://localhost:21001 answer        the same question through both protocols, streamed
python3 compose/ask.py http://localhost:21001 story         an answer that takes some seconds
python3 compose/ask.py http://localhost:21001 running       waits until a worker is at an answer
python3 compose/ask.py http://localhost:21001 alive         waits until the controller's process answers at all
"""

# ruff: noqa: S310, T201   it opens the http URL that it was given, and what it prints is the test's log

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any

QUESTION = "Name three colours."
LONG_QUESTION = "Tell me a long story about a lighthouse."
STEP_TIMEOUT = 30.0  # seconds for one request
TRY_AGAIN_AFTER = 0.5  # seconds between two looks


class NotYetError(Exception):
    """What was hoped for is not the case now."""


def post(url: str, body: dict[str, Any]) -> HTTPResponse:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    response: HTTPResponse = urllib.request.urlopen(request, timeout=STEP_TIMEOUT)
    return response


def served_model(base: str) -> str:
    """The one model that the workers announced."""
    models: list[str] = json.load(post(f"{base}/list_models", {}))["models"]
    if len(models) != 1:
        raise NotYetError(f"the models are {models}")
    return models[0]


def expect_workers(base: str, count: int, since: float) -> str:
    """Exactly so many are ready, and each was heard of `since` then: what was known before a restart does not count."""
    with urllib.request.urlopen(f"{base}/status", timeout=STEP_TIMEOUT) as response:
        workers = json.load(response)["workers"]
    silence = time.monotonic() - since
    ready = sorted(w["name"] for w in workers if w["state"] == "ready" and w["last_seen_age"] <= silence)
    if len(ready) != count:
        raise NotYetError(f"{len(ready)} workers are ready: {', '.join(ready) or 'none'}")
    return f"{served_model(base)} is served by {', '.join(ready)}"


def expect_running(base: str) -> str:
    with urllib.request.urlopen(f"{base}/status", timeout=STEP_TIMEOUT) as response:
        running = json.load(response)["streams"]["running"]
    if not running:
        raise NotYetError("no answer is being made")
    return f"{running} running"


def chat(base: str, question: str = QUESTION, tokens: int = 32) -> str:
    """OpenAI's protocol: server-sent events, closed by finish_reason and [DONE]."""
    body = {
        "model": served_model(base),
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
    }
    pieces, finish_reason, done = [], None, False
    with post(f"{base}/v1/chat/completions", body) as response:
        for line in response:
            if not line.startswith(b"data:"):
                continue
            payload = line.removeprefix(b"data:").strip()
            done = payload == b"[DONE]"
            for choice in [] if done else json.loads(payload).get("choices", []):
                pieces.append(choice.get("delta", {}).get("content") or "")
                finish_reason = choice.get("finish_reason") or finish_reason
    text = "".join(pieces)
    if not (text.strip() and finish_reason and done):
        raise NotYetError(f"/v1/chat/completions ended with {finish_reason=}, {done=}, after {text!r}")
    return f"/v1/chat/completions ({finish_reason}, {len(pieces)} chunks): {text[:160]!r}"


def llava(base: str) -> str:
    """LLaVA's protocol: JSON objects that each end with NUL; the text is cumulative and begins with the prompt."""
    prompt = f"USER: {QUESTION} ASSISTANT:"
    body = {"model": served_model(base), "prompt": prompt, "temperature": 0, "max_new_tokens": 32, "stop": "</s>"}
    texts = []
    with post(f"{base}/worker_generate_stream", body) as response:
        for event in _nul_delimited(response):
            if event["error_code"] != 0:
                raise NotYetError(f"/worker_generate_stream: {event['text']}")
            texts.append(event["text"])
    if not texts or not texts[-1].startswith(prompt) or not texts[-1].removeprefix(prompt).strip():
        raise NotYetError(f"/worker_generate_stream answered {texts[-1:]!r}")
    return f"/worker_generate_stream ({len(texts)} events): {texts[-1].removeprefix(prompt)!r}"


def _nul_delimited(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    pending = b""
    while data := response.read1():
        *events, pending = (pending + data).split(b"\0")
        yield from map(json.loads, filter(None, events))
    if pending:
        raise NotYetError(f"/worker_generate_stream was cut off: {pending[-60:]!r}")


def patiently(question: Callable[[], str], seconds: float) -> str:
    """Asks until it is so: a part that was just restarted needs a moment.

    Raises: TimeoutError, with what was the case last.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return question()
        except (NotYetError, OSError, HTTPException, json.JSONDecodeError) as error:
            if time.monotonic() > deadline:
                text = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else ""
                raise TimeoutError(f"not within {seconds:.0f} s: {error} {text}".rstrip()) from error
            time.sleep(TRY_AGAIN_AFTER)


def main() -> int:
    parser = argparse.ArgumentParser(description="Asks the running containers as clients do.")
    parser.add_argument("base", help="the controller's URL")
    parser.add_argument("--timeout", type=float, default=120, help="seconds to try for (default 120)")
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("workers", help="wait for so many live workers").add_argument("count", type=int)
    steps.add_parser("answer", help="ask through both protocols")
    steps.add_parser("story", help="one long answer, asked for once")
    steps.add_parser("running", help="wait until an answer is being made")
    steps.add_parser("alive", help="wait for /healthz alone: the process is up, with a broker or without")
    arguments = parser.parse_args()
    base: str = arguments.base.rstrip("/")
    started = time.monotonic()
    questions: dict[str, list[Callable[[], str]]] = {
        "workers": [lambda: expect_workers(base, arguments.count, started)],
        "answer": [lambda: chat(base), lambda: llava(base)],
        "story": [lambda: chat(base, LONG_QUESTION, tokens=600)],
        "running": [lambda: expect_running(base)],
        "alive": [lambda: f"/healthz: {urllib.request.urlopen(f'{base}/healthz', timeout=STEP_TIMEOUT).status}"],
    }
    try:
        for question in questions[arguments.step]:
            print("  " + patiently(question, arguments.timeout), flush=True)
    except TimeoutError as error:
        print(f"  {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
