"""What is measured, as processes: controller and echo workers on a broker; beside them the engine without a proxy.

Used by `python -m benchmarks`. Everything is started as a user would, by the command line.
"""

import asyncio
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial

from benchmarks.processes import Processes
from benchmarks.scenarios import FAST_MODEL, MOST_STREAMS, PACE, PACED_MODEL, Target
from broker_controller.amqp_probe import free_port, something_listens
from broker_wire.amqp.addresses import parse_broker_url
from broker_wire.amqp.connection import Connection, Session

# Always the same, so that benchmarks on a broker that stays do not pile up queues.
PREFIX = "bc-benchmark"
HOST = "127.0.0.1"
CONNECT_TIMEOUT = 10.0  # seconds


def start_no_proxy(processes: Processes) -> Target:
    """The reference. Raises: StartError."""
    port = free_port()
    models = [f"--model={FAST_MODEL}=0", f"--model={PACED_MODEL}={PACE}"]
    command = [sys.executable, "-m", "benchmarks.no_proxy", "--port", str(port), *models]
    processes.start("the engine without a proxy", command, lambda: something_listens(HOST, port))
    return Target("no proxy", f"http://{HOST}:{port}/v1/chat/completions")


def start_controller(processes: Processes, broker_url: str, *options: str) -> str:
    """Returns its URL. Raises: StartError."""
    port = free_port()
    base = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "broker_controller", "--host", HOST, "--port", str(port), "--log-level", "warning"]
    broker = ["--broker-url", broker_url, "--prefix", PREFIX]
    processes.start("the controller", [*command, *broker, *options], lambda: _get(f"{base}/readyz") is not None)
    return base


def worker_command(broker_url: str, models: Sequence[str], slots: int, *more: str) -> list[str]:
    """The command line of an echo worker."""
    command = [sys.executable, "-m", "workers_shim", "echo", *(f"--model={model}" for model in models)]
    broker = ["--broker-url", broker_url, "--prefix", PREFIX]
    return [*command, "--slots", str(slots), "--log-level", "warning", *broker, *more]


def start_broker_controller(processes: Processes, broker_url: str) -> Target:
    """The product: a controller and a worker for each model. Raises: StartError."""
    base = start_controller(processes, broker_url)
    for model, pace in ((FAST_MODEL, []), (PACED_MODEL, [f"--tokens-per-second={PACE}"])):
        command = worker_command(broker_url, [model], MOST_STREAMS, *pace)
        processes.start(f"the worker of {model}", command, partial(serves, base, model))
    return Target("broker-controller", f"{base}/v1/chat/completions")


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


def has_workers(base: str, count: int) -> bool:
    """Are so many workers ready?"""
    answer = _get(f"{base}/status")
    return answer is not None and [one["state"] for one in json.loads(answer)["workers"]].count("ready") == count


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
