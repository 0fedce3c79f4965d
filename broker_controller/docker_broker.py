"""A RabbitMQ in Docker, for machines where none is installed. Called by local_broker.py alone.

testcontainers is an extra and is imported only when it is needed. Its own reaper container removes ours even after
a `kill -9`; with TESTCONTAINERS_RYUK_DISABLED=true only an orderly end does.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from broker_controller.amqp_probe import answers_amqp

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGE = "rabbitmq:4-management"
_AMQP_PORT = 5672
_START_SECONDS = 120.0
_POLL_SECONDS = 0.2


class DockerBrokerError(RuntimeError):
    """Docker cannot give us a broker; the message says why."""


@contextmanager
def docker_broker(port: int = 0) -> Iterator[str]:
    """Run RabbitMQ in a container on `port` of this machine (0: a free one) and yield its URL.

    Raises:
        DockerBrokerError: no testcontainers, no Docker that answers, no image, or no AMQP within two minutes.
    """
    try:
        from docker.errors import DockerException
        from testcontainers.core.container import DockerContainer
    except ImportError as error:
        raise DockerBrokerError("the Python package testcontainers is not installed") from error

    try:
        container = DockerContainer(IMAGE)
    except DockerException as error:
        raise DockerBrokerError(f"Docker does not answer: {error}") from error
    try:
        # with_bind_ports() takes no address to listen on; Docker does.
        addressed: dict[str, Any] = container.ports
        addressed[f"{_AMQP_PORT}/tcp"] = (_listen_address(container), port or None)
        try:
            container.start()
        except DockerException as error:
            raise DockerBrokerError(f"Docker does not run {IMAGE}: {error}") from error
        yield _wait_ready(container)
    finally:
        container.stop()


def _listen_address(container: "DockerContainer") -> str:
    """Loopback where that can be reached: the image's user is guest, with the password guest."""
    from testcontainers.core.config import ConnectionMode

    client = container.get_docker_client()
    local = client.get_connection_mode() is ConnectionMode.docker_host and client.host() == "localhost"
    return "127.0.0.1" if local else "0.0.0.0"  # noqa: S104 - from inside a container only the bridge leads to Docker


def _wait_ready(container: "DockerContainer") -> str:
    host, port = container.get_container_host_ip(), int(container.get_exposed_port(_AMQP_PORT))
    deadline = time.monotonic() + _START_SECONDS
    while not answers_amqp(host, port):
        if time.monotonic() > deadline:
            output = b"".join(container.get_logs()).decode(errors="replace")[-3000:]
            raise DockerBrokerError(f"RabbitMQ in Docker did not answer within {_START_SECONDS:.0f} s:\n{output}")
        time.sleep(_POLL_SECONDS)
    return f"amqp://guest:guest@{host}:{port}/"
