"""`python -m benchmarks.real_model`: what the product adds to a real model, llama.cpp with SmolLM2-135M.

The same greedy answer from llama.cpp's own HTTP server, from the product with the engine `openai` in front of that very
server, and from the engine `llamacpp` in a worker's process. Also a part of `make bench`.
"""

import signal
import sys
from collections.abc import Sequence
from functools import partial

import msgspec
import uvloop

from benchmarks.answers import OPENAI, Answer, read_answer
from benchmarks.figures import ratios, show_spread, spread, table
from benchmarks.load import Load, Outcome, run_round
from benchmarks.processes import Processes, StartError
from benchmarks.stack import HOST, broker_of_run, serves, start_controller, worker_command
from broker_controller.amqp_probe import free_port
from broker_controller.local_broker import NoBrokerError
from broker_controller.private_node import PrivateNodeError
from broker_wire.errors import BrokerError

MODEL = "smollm2"
SLOTS = 2
PREFIX = "bc-benchmark-real"
LOADS = tuple(
    Load(
        model=MODEL,
        streams=streams,
        tokens=32,
        prompt="Tell me about gravity in two sentences.",
        extra={"temperature": 0, "ignore_eos": True},
    )
    for streams in (1, SLOTS)
)
PER_ROUND = 2
"""Requests of each stream, on connections of their own: llama.cpp's server closes them behind a stream."""
READY_TIMEOUT = 120.0  # seconds; the model is loaded


class RealModel(msgspec.Struct, frozen=True):
    """All rounds, by the target's name; the first is llama.cpp's own server."""

    load: Load
    outcomes: dict[str, list[Outcome]]


def _start(processes: Processes, broker_url: str) -> dict[str, str]:
    """The URL of each target, by its name. Raises: StartError."""
    port = free_port()
    server = f"http://{HOST}:{port}"
    own = [sys.executable, "-m", "workers_shim.engines.llamacpp_http", "--port", str(port), "--alias", MODEL]
    slots = ["--slots", str(SLOTS)]
    processes.start("llama.cpp's server", [*own, *slots], partial(serves, server, MODEL), READY_TIMEOUT)
    bases = {"llama.cpp's own server": server}
    ways = {
        "broker-controller, engine openai in front of it": ("openai", [], [f"--url={server}/v1"]),
        "broker-controller, engine llamacpp": ("llamacpp", [MODEL], ["--context-length", "2048"]),
    }
    for name, (engine, models, more) in ways.items():
        prefix = f"{PREFIX}-{engine}"
        base, _ = start_controller(processes, broker_url, prefix=prefix)
        command = worker_command(broker_url, models, SLOTS, *more, engine=engine, prefix=prefix)
        processes.start(f"the worker {engine}", command, partial(serves, base, MODEL), READY_TIMEOUT)
        bases[name] = base
    return bases


def _read(raw: bytes, _prompt: str) -> Answer:
    """What a model writes is not known before, and its tokens are not all events: a token may be a part of a letter."""
    answer = read_answer(raw)
    return Answer(_WRITTEN if answer.text else "", answer.error)


_WRITTEN = "a text"
_ANY_TEXT = msgspec.structs.replace(OPENAI, read=_read, expected=lambda _prompt, _tokens: _WRITTEN)


async def _measure(bases: dict[str, str], rounds: int, load: Load) -> dict[str, list[Outcome]]:
    outcomes: dict[str, list[Outcome]] = {name: [] for name in bases}
    for number in range(PER_ROUND * rounds + 1):
        for name in bases if number % 2 else reversed(bases):
            outcome = await run_round(bases[name] + OPENAI.path, load, _ANY_TEXT)
            if number:
                outcomes[name].append(outcome)
    return outcomes


def measure(broker_url: str, rounds: int) -> list[RealModel]:
    """Raises: StartError, OSError."""
    with Processes() as processes:
        bases = _start(processes, broker_url)
        return [RealModel(load, uvloop.run(_measure(bases, rounds, load))) for load in LOADS]


def report(found: Sequence[RealModel]) -> str:
    """As Markdown."""
    return "\n\n".join(map(_table, found))


def _table(found: RealModel) -> str:
    reference, *_ = found.outcomes.values()
    rows = []
    for name, outcomes in found.outcomes.items():
        row = [name]
        for field in ("ttft_p50", "total_p50"):
            figures, of_reference = ([getattr(one, field) for one in some] for some in (outcomes, reference))
            row.append(show_spread(spread(figures)))
            row.append("" if outcomes is reference else show_spread(ratios(figures, of_reference)))
        rows.append([*row, str(sum(sum(outcome.errors.values()) for outcome in outcomes))])
    load = found.load
    title = f"SmolLM2-135M, {load.tokens} tokens, {load.streams} at once"
    header = [title, "TTFT p50, ms", "× its own server", "answer p50, ms", "× its own server", "wrong or missing"]
    return table(header, rows)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended as on Ctrl-C
    try:
        with broker_of_run() as broker:
            found = measure(broker.url, rounds=5)
    except (NoBrokerError, PrivateNodeError, BrokerError, StartError, OSError) as error:
        print(f"it could not be measured: {error}", file=sys.stderr)
        return 1
    print(report(found))
    return 1 if any(outcome.errors for each in found for some in each.outcomes.values() for outcome in some) else 0


if __name__ == "__main__":
    sys.exit(main())
