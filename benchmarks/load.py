"""The load generator: N streams at once, each asking for M tokens or an embedding, again and again, from one address.

    python -m benchmarks.load --url http://localhost:21001/v1/chat/completions --model echo --streams 50 --tokens 100

Used by the suite and by hand. It runs in one process on raw sockets; it knows nothing of what it measures but HTTP, the
events of a chat completion, and the text that the echo engine must answer.
"""

import argparse
import asyncio
import gc
import json
import re
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
import uvloop

from benchmarks.answers import EMBEDDINGS, LLAVA, OPENAI, Protocol, fault
from benchmarks.figures import percentile, show_spread, spread, table
from benchmarks.stream_client import Exchange, StreamConnection

# A word of four letters and a space: about the length of a model's token.
PROMPT = "what does rain make when clay roof tile meet hard wind from west"
CONNECT_TIMEOUT = 10.0  # seconds


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask for.

    Attributes:
        start_spread: seconds over which the first requests are spread evenly.
        pace: tokens a second at which the engine answers, 0 for one that has none: by it a token can be late.
        extra: what else is in the body of a chat's request.
    """

    model: str
    streams: int
    tokens: int
    requests: int = 1
    start_spread: float = 0.0
    timeout: float = 120.0
    prompt: str = PROMPT
    pace: float = 0.0
    extra: dict[str, Any] = {}


class Outcome(msgspec.Struct, frozen=True):
    """One round. Rates are of whole and right answers only; times in milliseconds.

    `lateness` is how much later a token came than from an engine of this pace that begins at once, NaN without a pace;
    `total_p50` the time from a request to the end of its answer. `own_cpu` is the load generator's own use of one core,
    0 to 1: near 1 it would be what limits the round.
    """

    tokens_per_second: float
    requests_per_second: float
    ttft_p50: float
    ttft_p99: float
    gap_p99: float
    lateness_p50: float
    lateness_p99: float
    total_p50: float
    own_cpu: float
    answers: int
    errors: dict[str, int]


def request_body(load: Load, protocol: Protocol) -> dict[str, Any]:
    """The JSON of one request."""
    if protocol is LLAVA:
        return {"model": load.model, "prompt": load.prompt, "max_new_tokens": load.tokens, "stop": None}
    if protocol is EMBEDDINGS:
        return {"model": load.model, "input": load.prompt}
    messages = [{"role": "user", "content": load.prompt}]
    return {"model": load.model, "messages": messages, "max_tokens": load.tokens, "stream": True, **load.extra}


def request_bytes(url: SplitResult, load: Load, protocol: Protocol = OPENAI) -> bytes:
    """The same as it is sent."""
    body = msgspec.json.encode(request_body(load, protocol))
    head = (
        f"POST {url.path or '/'} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def run_round(
    url: str,
    load: Load,
    protocol: Protocol = OPENAI,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> Outcome:
    """Opens the connections, then measures from the first request to the end of the last answer.

    `before` and `after` are called at these moments, for who measures something else.

    Raises:
        OSError, TimeoutError: the address does not accept the connections.
    """
    parts = urlsplit(url)
    connections = await connect(parts, load.streams, protocol)
    request = request_bytes(parts, load, protocol)
    gc.collect()
    gc.disable()
    try:
        before()
        started, cpu_started = perf_counter(), process_time()
        await _ask(connections, request, load)
        elapsed, cpu = perf_counter() - started, process_time() - cpu_started
        after()
    finally:
        gc.enable()
        await asyncio.gather(*(connection.aclose() for connection in connections))
    return outcome_of(connections, load, protocol, elapsed, cpu)


async def connect(parts: SplitResult, count: int, protocol: Protocol) -> list[StreamConnection]:
    """So many connections. Raises: OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    connections = []
    async with asyncio.timeout(CONNECT_TIMEOUT):
        for _ in range(count):
            _, connection = await loop.create_connection(
                partial(StreamConnection, protocol.token), parts.hostname or "localhost", parts.port or 80
            )
            connections.append(connection)
    return connections


async def _ask(connections: list[StreamConnection], request: bytes, load: Load) -> None:
    pause = load.start_spread / len(connections)
    for connection in connections:
        connection.start(request, load.requests)
        if pause:
            await asyncio.sleep(pause)
    await asyncio.wait([connection.finished for connection in connections], timeout=load.timeout)


def outcome_of(
    connections: list[StreamConnection], load: Load, protocol: Protocol, elapsed: float, cpu: float
) -> Outcome:
    """What became of all that was asked, in so many seconds, `cpu` of them of this process's processor time."""
    exchanges = [exchange for connection in connections for exchange in connection.exchanges]
    expected = protocol.expected(load.prompt, load.tokens)
    errors: Counter[str] = Counter()
    right = []
    for exchange in exchanges:
        problem = _problem(exchange, expected, load, protocol)
        if problem is None:
            right.append(exchange)
        else:
            errors[problem] += 1
    missing = load.streams * load.requests - len(exchanges)
    if missing:
        errors["not asked: the connection before it ended early"] += missing
    first = [1000 * (exchange.first_content - exchange.sent) for exchange in right if exchange.first_content]
    gaps = [
        1000 * (later - earlier)
        for exchange in right
        for earlier, later in zip(exchange.arrivals, exchange.arrivals[1:], strict=False)
    ]
    late = [milliseconds for exchange in right for milliseconds in _lateness(exchange, load, protocol.token)]
    totals = [1000 * (exchange.ended - exchange.sent) for exchange in right if exchange.ended is not None]
    return Outcome(
        tokens_per_second=len(right) * load.tokens / elapsed,
        requests_per_second=len(right) / elapsed,
        ttft_p50=percentile(first, 50),
        ttft_p99=percentile(first, 99),
        gap_p99=percentile(gaps, 99),
        lateness_p50=percentile(late, 50),
        lateness_p99=percentile(late, 99),
        total_p50=percentile(totals, 50),
        own_cpu=cpu / elapsed,
        answers=len(right),
        errors=dict(errors),
    )


def _lateness(exchange: Exchange, load: Load, token: re.Pattern[bytes]) -> Iterator[float]:
    """Of each token, in milliseconds: its segment came so much later than an engine of this pace had made it.

    Of nobody's answer where tokens cannot be told apart, as where a proxy has cut one in two.
    """
    matches = list(token.finditer(b"".join(exchange.segments)))
    if not load.pace or len(matches) != load.tokens:
        return
    ends = list(accumulate(map(len, exchange.segments)))
    for number, match in enumerate(matches):
        arrival = exchange.arrivals[bisect_right(ends, match.end() - 1)]
        yield 1000 * (arrival - exchange.sent - number / load.pace)


def _problem(exchange: Exchange, expected: str, load: Load, protocol: Protocol) -> str | None:
    if exchange.closed_early:
        return "the connection was closed before the answer was whole"
    if exchange.ended is None:
        return "no whole answer in time"
    return fault(protocol.read(b"".join(exchange.segments), load.prompt), expected, load.tokens)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description="Loads one address with streams.")
    parser.add_argument(
        "--url", required=True, help="of a /v1/chat/completions or /worker_generate_stream whose engine is echo"
    )
    parser.add_argument("--model", default="echo")
    parser.add_argument("--streams", type=int, default=50, help="at once (default 50)")
    parser.add_argument("--tokens", type=int, default=100, help="of each answer (default 100)")
    parser.add_argument("--requests", type=int, default=10, help="one after the other on each stream (default 10)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start-spread", type=float, default=0.0, help="seconds over which the streams start")
    parser.add_argument("--pace", type=float, default=0.0, help="tokens a second that the engine makes; shows lateness")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures there")
    return parser


async def _rounds(url: str, load: Load, count: int) -> list[Outcome]:
    protocol = LLAVA if url.endswith(LLAVA.path) else OPENAI
    return [await run_round(url, load, protocol) for _ in range(count)]


def _report(outcomes: list[Outcome]) -> str:
    units = {
        "tokens_per_second": "tokens/s",
        "requests_per_second": "requests/s",
        "ttft_p50": "TTFT p50, ms",
        "ttft_p99": "TTFT p99, ms",
        "gap_p99": "pause between writes p99, ms",
        "lateness_p99": "lateness of a token p99, ms",
        "total_p50": "a whole answer p50, ms",
        "own_cpu": "load generator's use of a core",
    }
    rows = [[label, show_spread(spread([getattr(o, name) for o in outcomes]))] for name, label in units.items()]
    rows.append(["errors", str(sum(sum(o.errors.values()) for o in outcomes))])
    return table([f"{len(outcomes)} rounds", "median (min–max)"], rows)


def main() -> int:
    arguments = _parser().parse_args()
    load = Load(
        model=arguments.model,
        streams=arguments.streams,
        tokens=arguments.tokens,
        requests=arguments.requests,
        start_spread=arguments.start_spread,
        timeout=arguments.timeout,
        pace=arguments.pace,
    )
    try:
        outcomes = uvloop.run(_rounds(arguments.url, load, arguments.rounds))
    except OSError as error:  # a TimeoutError is one too
        print(f"{arguments.url} does not accept connections: {error or 'it did not answer in time'}", file=sys.stderr)
        return 1
    print(_report(outcomes))
    errors = sum((Counter(outcome.errors) for outcome in outcomes), Counter())
    for sentence, count in errors.most_common(5):
        print(f"{count} × {sentence}", file=sys.stderr)
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({"load": msgspec.to_builtins(load), "rounds": msgspec.to_builtins(outcomes)})
        )
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
