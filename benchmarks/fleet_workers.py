"""`python -m benchmarks.fleet_workers`: many workers in one process, each with connections and messages of its own.

Every one is what a worker is to the broker and to controllers: a session with two connections, its queues, its will,
its heartbeats. They share one event loop, and an engine that answers with one word. Used by `fleet`.
"""

import argparse
import asyncio
import signal
from collections.abc import Iterator

import uvloop

from broker_controller.open_files import raise_limit
from workers_shim import Request
from workers_shim.config import SessionConfig
from workers_shim.execution import EngineExecutor
from workers_shim.served_model import serve
from workers_shim.session import WorkerSession

STARTS = 25.0  # sessions that are started a second


def _answer(_: Request) -> Iterator[str]:
    yield "done"


async def run(names: list[str], urls: list[str], prefix: str, models: int) -> None:
    """Until SIGTERM; then all of them leave in order."""
    executor = EngineExecutor()
    for number in range(models):
        model = serve(
            f"m{number}",
            _answer,
            abilities=("chat", "completion"),
            context_length=None,
            resume="never",
            shared_loop=False,
        )
        executor.add(model)
    cards = {card.name: card for card in executor.cards}
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    sessions: list[WorkerSession] = []
    async with asyncio.TaskGroup() as tasks:
        for number, name in enumerate(names):
            config = SessionConfig(name, 1, 1.0, urls[number % len(urls)], prefix=prefix)
            session = WorkerSession(config, executor, [cards[f"m{number % models}"]])
            tasks.create_task(session.run())
            sessions.append(session)
            await asyncio.sleep(1.0 / STARTS)
        print("all are started", flush=True)
        await leaving.wait()
        for session in sessions:
            session.drain()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet_workers", description=__doc__)
    parser.add_argument("--name", required=True, help="what their names begin with")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--models", type=int, default=10, help="each worker serves one of them")
    parser.add_argument("--broker-url", action="append", required=True, help="taken in turn; each a list with commas")
    parser.add_argument("--prefix", required=True)
    arguments = parser.parse_args()
    raise_limit()
    names = [f"{arguments.name}-{number}" for number in range(arguments.workers)]
    uvloop.run(run(names, arguments.broker_url, arguments.prefix, arguments.models))


if __name__ == "__main__":
    main()
