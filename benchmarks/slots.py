"""`python -m benchmarks.slots`: what one pool of slots over all of a worker's queues costs, counted on the wire.

With one model the pool has to be free: no basic.consume and no basic.cancel for a request, however many wait. With two
models that compete for the same slots, consumers come and go, and this shows how often.
"""

import argparse
import asyncio
import sys
from collections import Counter
from urllib.parse import urlsplit

import msgspec
import uvloop

from benchmarks.figures import table
from benchmarks.load import Load, run_round
from benchmarks.method_counter import FROM_BROKER, FROM_CLIENT, CountingRelay, MethodCount
from benchmarks.processes import Processes
from benchmarks.stack import HOST, broker_of_run, serves, start_controller, worker_command

_SHOWN = (
    (FROM_BROKER, "basic.deliver"),
    (FROM_CLIENT, "basic.ack"),
    (FROM_CLIENT, "basic.nack"),
    (FROM_CLIENT, "basic.publish"),
    (FROM_CLIENT, "basic.qos"),
    (FROM_CLIENT, "basic.consume"),
    (FROM_CLIENT, "basic.cancel"),
    (FROM_CLIENT, "basic.get"),
    (FROM_BROKER, "basic.get-empty"),
)
_CONSUMER_METHODS = ("basic.consume", "basic.cancel", "basic.get")
READY_TIMEOUT = 60.0  # seconds
SETTLE_TIMEOUT = 10.0  # seconds until the last ack has passed
STREAMS, REQUESTS, TOKENS = 50, 20, 100


class Case(msgspec.Struct, frozen=True):
    title: str
    models: tuple[str, ...]
    slots: int


CASES = (
    Case("one model, a slot for each stream", ("slots-a",), STREAMS),
    Case("one model, 8 slots, the others wait", ("slots-b",), 8),
    Case("two models, 8 slots, the others wait", ("slots-c", "slots-d"), 8),
)


async def count(case: Case, broker_url: str, base: str) -> Counter[MethodCount]:
    """What passed between one worker and the broker for all of a case's requests.

    Raises: StartError, TimeoutError; RuntimeError when an answer was wrong.
    """
    address = urlsplit(broker_url)
    async with CountingRelay(address.hostname or HOST, address.port or 5672) as relay:
        # The relay needs this loop, so the wait for the worker must not hold it up.
        with Processes() as processes:
            url = address._replace(netloc=f"{address.username}:{address.password}@{HOST}:{relay.port}").geturl()
            command = worker_command(url, case.models, case.slots)
            processes.start("the worker", command, lambda: True)
            async with asyncio.timeout(READY_TIMEOUT):
                while not all([await asyncio.to_thread(serves, base, model) for model in case.models]):
                    processes.check()
                    await asyncio.sleep(0.1)
            before = Counter(relay.counts)
            await _ask(case, f"{base}/v1/chat/completions")
            acked = MethodCount(FROM_CLIENT, "basic.ack")
            async with asyncio.timeout(SETTLE_TIMEOUT):
                while relay.counts[acked] - before[acked] < STREAMS * REQUESTS:  # noqa: ASYNC110  counters have no event
                    await asyncio.sleep(0.05)
            return Counter(relay.counts) - before


async def _ask(case: Case, url: str) -> None:
    streams = STREAMS // len(case.models)
    loads = [Load(model=model, streams=streams, tokens=TOKENS, requests=REQUESTS) for model in case.models]
    outcomes = await asyncio.gather(*(run_round(url, load) for load in loads))
    errors = {sentence: number for outcome in outcomes for sentence, number in outcome.errors.items()}
    if errors:
        raise RuntimeError(f"{case.title}: {errors}")


def per_request(counts: Counter[MethodCount]) -> list[str]:
    return [f"{counts[MethodCount(direction, method)] / (STREAMS * REQUESTS):.3f}" for direction, method in _SHOWN]


def main() -> int:
    argparse.ArgumentParser(prog="python -m benchmarks.slots", description=__doc__).parse_args()
    rows, failed = [], False
    with broker_of_run() as broker, Processes() as processes:
        base, _ = start_controller(processes, broker.url)
        for case in CASES:
            counts = uvloop.run(count(case, broker.url, base))
            rows.append([case.title, *per_request(counts)])
            if len(case.models) == 1:
                failed = failed or any(counts[MethodCount(FROM_CLIENT, method)] for method in _CONSUMER_METHODS)
    print(f"{STREAMS} streams, {STREAMS * REQUESTS} requests of {TOKENS} tokens; the worker's AMQP methods for each")
    print(table(["case", *(method for _, method in _SHOWN)], rows))
    if failed:
        print("with one model a consumer was started or cancelled: the pool of slots is not free", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
