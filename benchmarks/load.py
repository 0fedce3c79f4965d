"""The load generator: N streams at once, each asking for M tokens, again and again, from one address.

    python -m benchmarks.load --url http://localhost:21001/v1/chat/completions --model echo --streams 50 --tokens 100

Used by the suite and by hand. It runs in one process on raw sockets; it knows nothing of what it measures but HTTP, the
events of a chat completion, and the text that the echo engine must answer.
"""

import argparse
import asyncio
import gc
import json
import sys
from collections import Counter
from pathlib import Path
from time import perf_counter, process_time
from urllib.parse import SplitResult, urlsplit

import msgspec
import uvloop

from benchmarks.answers import echo_text, fault, read_answer
from benchmarks.figures import percentile, show_spread, spread, table
from benchmarks.stream_client import Exchange, StreamConnection

# A word of four letters and a space: about the length of a model's token.
PROMPT = "what does rain make when clay roof tile meet hard wind from west"
CONNECT_TIMEOUT = 10.0  # seconds


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask for. `start_spread` (seconds) spreads the first requests evenly over that time."""

    model: str
    streams: int
    tokens: int
    requests: int = 1
    start_spread: float = 0.0
    timeout: float = 120.0


class Outcome(msgspec.Struct, frozen=True):
    """One round. Rates are of whole and right answers only; times in milliseconds.

    `own_cpu` is the load generator's own use of one core, 0 to 1: near 1 it would be what limits the round.
    """

    tokens_per_second: float
    requests_per_second: float
    ttft_p50: float
    ttft_p99: float
    gap_p99: float
    own_cpu: float
    answers: int
    errors: dict[str, int]


def request_bytes(url: SplitResult, load: Load) -> bytes:
    body = msgspec.json.encode(
        {
            "model": load.model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": load.tokens,
            "stream": True,
        }
    )
    head = (
        f"POST {url.path or '/'} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def run_round(url: str, load: Load) -> Outcome:
    """Opens the connections, then measures from the first request to the end of the last answer.

    Raises:
        OSError, TimeoutError: the address does not accept the connections.
    """
    parts = urlsplit(url)
    connections = await _connect(parts, load.streams)
    request = request_bytes(parts, load)
    gc.collect()
    gc.disable()
    try:
        started, cpu_started = perf_counter(), process_time()
        await _ask(connections, request, load)
        elapsed, cpu = perf_counter() - started, process_time() - cpu_started
    finally:
        gc.enable()
        await asyncio.gather(*(connection.aclose() for connection in connections))
    exchanges = [exchange for connection in connections for exchange in connection.exchanges]
    return _outcome(exchanges, load, elapsed, cpu)


async def _connect(parts: SplitResult, count: int) -> list[StreamConnection]:
    loop = asyncio.get_running_loop()
    connections = []
    async with asyncio.timeout(CONNECT_TIMEOUT):
        for _ in range(count):
            _, connection = await loop.create_connection(
                StreamConnection, parts.hostname or "localhost", parts.port or 80
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


def _outcome(exchanges: list[Exchange], load: Load, elapsed: float, cpu: float) -> Outcome:
    expected = echo_text(PROMPT, load.tokens)
    errors: Counter[str] = Counter()
    right = []
    for exchange in exchanges:
        problem = _problem(exchange, expected, load.tokens)
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
    return Outcome(
        tokens_per_second=len(right) * load.tokens / elapsed,
        requests_per_second=len(right) / elapsed,
        ttft_p50=percentile(first, 50),
        ttft_p99=percentile(first, 99),
        gap_p99=percentile(gaps, 99),
        own_cpu=cpu / elapsed,
        answers=len(right),
        errors=dict(errors),
    )


def _problem(exchange: Exchange, expected: str, tokens: int) -> str | None:
    if exchange.closed_early:
        return "the connection was closed before the answer was whole"
    if exchange.ended is None:
        return "no whole answer in time"
    return fault(read_answer(b"".join(exchange.segments)), expected, tokens)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description="Loads one address with streams.")
    parser.add_argument("--url", required=True, help="of a /v1/chat/completions whose engine is echo")
    parser.add_argument("--model", default="echo")
    parser.add_argument("--streams", type=int, default=50, help="at once (default 50)")
    parser.add_argument("--tokens", type=int, default=100, help="of each answer (default 100)")
    parser.add_argument("--requests", type=int, default=10, help="one after the other on each stream (default 10)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start-spread", type=float, default=0.0, help="seconds over which the streams start")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures there")
    return parser


async def _rounds(url: str, load: Load, count: int) -> list[Outcome]:
    return [await run_round(url, load) for _ in range(count)]


def _report(outcomes: list[Outcome]) -> str:
    units = {
        "tokens_per_second": "tokens/s",
        "requests_per_second": "requests/s",
        "ttft_p50": "TTFT p50, ms",
        "ttft_p99": "TTFT p99, ms",
        "gap_p99": "pause between writes p99, ms",
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
