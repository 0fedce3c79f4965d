"""What is measured, as processes: controller and workers on a broker, and the mock engine, which is also the reference.

Everything is started as a user would, by the command line. What stands beside it is in peers.py.
"""

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial

from benchmarks.answers import LLAVA, OPENAI
from benchmarks.processes import Processes
from benchmarks.scenarios import FAST_MODEL, MOST_STREAMS, PACE, PACED_MODEL, Target
from broker_controller.amqp_probe import free_port, something_listens
from broker_controller.local_broker import RunningBroker, local_broker, private_broker
from broker_wire.amqp.addresses import parse_broker_url
from broker_wire.amqp.connection import Connection, Session

# Always the same, so that benchmarks on a broker that stays do not pile up queues.
PREFIX = "bc-benchmark"
HTTP_PREFIX = "bc-benchmark-http"
HOST = "127.0.0.1"
CONNECT_TIMEOUT = 10.0  # seconds


def broker_of_run() -> AbstractContextManager[RunningBroker]:
    """The broker of `AMQP_URL`, else a private one, which ends with the run. Entering raises: NoBrokerError,
    PrivateNodeError."""
    given = os.environ.get("AMQP_URL")
    return local_broker(given) if given else private_broker()


def start_mock_engine(processes: Processes) -> Target:
    """The reference, and what stands behind every gateway. Raises: StartError."""
    port = free_port()
    models = [f"--model={FAST_MODEL}=0", f"--model={PACED_MODEL}={PACE}"]
    command = [sys.executable, "-m", "benchmarks.mock_engine", "--port", str(port), *models]
    pid = processes.start("the mock engine", command, lambda: something_listens(HOST, port))
    return Target("no proxy", f"http://{HOST}:{port}", pids={"engine": (pid,)})


def start_controller(processes: Processes, broker_url: str, *options: str, prefix: str = PREFIX) -> tuple[str, int]:
    """Returns its URL and process id. Raises: StartError."""
    port = free_port()
    base = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "broker_controller", "--host", HOST, "--port", str(port), "--log-level", "warning"]
    broker = ["--broker-url", broker_url, "--prefix", prefix]
    pid = processes.start("the controller", [*command, *broker, *options], lambda: _get(f"{base}/readyz") is not None)
    return base, pid


def worker_command(
    broker_url: str, models: Sequence[str], slots: int, *more: str, engine: str = "echo", prefix: str = PREFIX
) -> list[str]:
    """The command line of a worker."""
    command = [sys.executable, "-m", "workers_shim", engine, *(f"--model={model}" for model in models)]
    broker = ["--broker-url", broker_url, "--prefix", prefix]
    return [*command, "--slots", str(slots), "--log-level", "warning", *broker, *more]


def start_native(processes: Processes, broker_url: str, broker_pid: int | None) -> list[Target]:
    """The product with the engine in the worker's process, in both protocols. Raises: StartError."""
    base, controller = start_controller(processes, broker_url)
    workers = []
    for model, pace in ((FAST_MODEL, []), (PACED_MODEL, [f"--tokens-per-second={PACE}"])):
        command = worker_command(broker_url, [model], MOST_STREAMS, *pace)
        workers.append(processes.start(f"the worker of {model}", command, partial(serves, base, model)))
    pids = _pids(controller, workers, broker_pid)
    return [
        Target("broker-controller, native", base, OPENAI, pids),
        Target("broker-controller, native, LLaVA's protocol", base, LLAVA, pids),
    ]


def start_behind_http(processes: Processes, broker_url: str, broker_pid: int | None, engine: Target) -> Target:
    """The product in front of the mock engine's server, as gateways have it. Raises: StartError."""
    base, controller = start_controller(processes, broker_url, prefix=HTTP_PREFIX)
    command = worker_command(
        broker_url, [], MOST_STREAMS, f"--url={engine.base}/v1", engine="openai", prefix=HTTP_PREFIX
    )
    worker = processes.start("the worker beside the mock engine", command, partial(serves, base, PACED_MODEL))
    pids = _pids(controller, [worker], broker_pid) | engine.pids
    return Target("broker-controller, HTTP engine", base, OPENAI, pids)


def _pids(controller: int, workers: Sequence[int], broker: int | None) -> dict[str, tuple[int, ...]]:
    pids = {"controller": (controller,), "workers": tuple(workers)}
    return pids if broker is None else pids | {"broker": (broker,)}


def serves(base: str, model: str) -> bool:
    """Is this model among those that the controller can dispatch?"""
    answer = _get(f"{base}/v1/models")
    return answer is not None and model in [card["id"] for card in json.loads(answer)["data"]]


def _get(url: str) -> bytes | None:
    """The body of a 200, or None."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            body: bytes = response.read()
            return body
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def ready_workers(base: str) -> int:
    """How many workers this controller knows to be ready."""
    return len(ready_ages(base))


def ready_ages(base: str) -> list[float]:
    """Of each of them, for how many seconds nothing was heard of it."""
    answer = _get(f"{base}/status")
    workers = [] if answer is None else json.loads(answer)["workers"]
    return [one["last_seen_age"] for one in workers if one["state"] == "ready"]


def has_workers(base: str, count: int) -> bool:
    """Are so many workers ready?"""
    return ready_workers(base) == count


async def broker_version(broker_url: str) -> str:
    """RabbitMQ's version, such as 4.0.5.

    Raises: BrokerError, when it cannot be reached.
    """

    async def nothing_to_declare(_session: Session) -> None: ...

    connection = Connection(parse_broker_url(broker_url), name="benchmark", on_connected=nothing_to_declare)
    life = asyncio.create_task(connection.run())
    try:
        await connection.wait_connected(CONNECT_TIMEOUT)
        return ".".join(map(str, connection.server_version))
    finally:
        life.cancel()
        await asyncio.wait([life])
