"""A broker of our own: a private RabbitMQ node or a container, and that nothing of it is left."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker_controller import local_broker as module
from broker_controller.amqp_probe import something_listens
from broker_controller.docker_broker import IMAGE
from broker_controller.local_broker import BrokerChoice, local_broker, private_broker
from broker_controller.private_node import HOST, PrivateNode, PrivateNodeError, find_server
from broker_wire.amqp.addresses import parse_broker_url
from broker_wire.amqp.connection import Connection, Session
from tests.processes import Process, Processes
from tests.waiting import EventuallySync

needs_rabbitmq = pytest.mark.skipif(find_server() is None, reason="rabbitmq-server is not installed")

OWNER = """
import pathlib, signal, sys
from broker_controller.private_node import PrivateNode
with PrivateNode() as node:
    print(f"ready port={node.port} pid={node.pid} folder={node.folder}", flush=True)
    signal.pause()
"""


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def start_owner(processes: Processes) -> tuple[Process, int, int, Path]:
    owner = processes.start("python", "-c", OWNER)
    ready = owner.wait_for_output(r"^ready port=(\d+) pid=(\d+) folder=(.+)$", within=90)
    return owner, int(ready[1]), int(ready[2]), Path(ready[3])


async def connects(url: str) -> bool:
    """Log in, with the adapter that both programs use."""

    async def nothing_to_prepare(_: Session) -> None: ...

    connection = Connection(parse_broker_url(url), name="test", on_connected=nothing_to_prepare)
    task = asyncio.create_task(connection.run())
    try:
        await connection.wait_connected(30)
        return connection.connected
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def docker_has_the_image() -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None and subprocess.run([docker, "image", "inspect", IMAGE], capture_output=True).returncode == 0
    )


@pytest.fixture(scope="module")
def node() -> Iterator[PrivateNode]:
    with PrivateNode(extra_conf="consumer_timeout = 123456") as started:
        yield started


@needs_rabbitmq
async def test_a_private_node_listens_where_it_was_asked_to_and_leaves_nothing(free_port: Callable[[], int]) -> None:
    port = free_port()
    with local_broker(None, port=port) as broker:
        assert broker.choice is BrokerChoice.PRIVATE_NODE
        assert broker.node is not None
        assert broker.url.endswith(f":{port}/")
        assert str(port) in broker.describe()
        pid, folder = broker.node.pid, broker.node.folder
        assert await connects(broker.url)
        assert lives(pid)
    assert not lives(pid)
    assert not folder.exists()
    assert not something_listens(HOST, port)


@needs_rabbitmq
def test_a_private_node_starts_no_epmd(node: PrivateNode) -> None:
    node.rabbitmqctl("status")
    environment = dict(item.partition("=")[::2] for item in Path(f"/proc/{node.pid}/environ").read_text().split("\0"))
    assert not something_listens(HOST, int(environment["ERL_EPMD_PORT"]))


@needs_rabbitmq
def test_rabbitmqctl_reaches_the_private_node(node: PrivateNode) -> None:
    node.rabbitmqctl("add_vhost", "somewhere")
    assert "somewhere" in node.rabbitmqctl("list_vhosts", "name").split()
    with pytest.raises(PrivateNodeError, match="nowhere"):
        node.rabbitmqctl("delete_vhost", "nowhere")


@needs_rabbitmq
def test_a_private_node_takes_more_settings(node: PrivateNode) -> None:
    assert "{consumer_timeout,123456}" in node.rabbitmqctl("environment")


@needs_rabbitmq
def test_a_private_node_keeps_its_data_over_a_crash_and_a_stop() -> None:
    with PrivateNode() as node:
        node.rabbitmqctl("add_vhost", "kept")
        node.kill()
        assert not something_listens(HOST, node.port)
        node.start()
        node.stop()
        assert not something_listens(HOST, node.port)
        node.start()
        assert "kept" in node.rabbitmqctl("list_vhosts", "name").split()


@needs_rabbitmq
def test_a_wrong_setting_is_an_error_with_the_nodes_own_words() -> None:
    with pytest.raises(PrivateNodeError, match="no_such_setting"):
        PrivateNode(extra_conf="no_such_setting = 1").start()


@needs_rabbitmq
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_private_node_ends_with_its_owner(
    processes: Processes, eventually_sync: EventuallySync, signum: signal.Signals
) -> None:
    owner, port, pid, folder = start_owner(processes)
    owner.signal(signum)
    owner.wait()
    eventually_sync(lambda: not lives(pid) and not folder.exists() and not something_listens(HOST, port))


@needs_rabbitmq
@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_private_node_ends_even_when_its_guard_is_killed(
    processes: Processes, eventually_sync: EventuallySync
) -> None:
    owner, _, pid, folder = start_owner(processes)
    guard = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guard, signal.SIGKILL)
    eventually_sync(lambda: not lives(pid))
    owner.signal(signal.SIGINT)
    owner.wait()
    assert not folder.exists()


@pytest.mark.skipif(not docker_has_the_image(), reason=f"Docker with the image {IMAGE} is not here")
async def test_docker_gives_a_broker_where_rabbitmq_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("testcontainers")
    monkeypatch.setattr("testcontainers.core.config.testcontainers_config.ryuk_disabled", True)
    monkeypatch.setattr(module, "find_server", lambda: None)
    with private_broker() as broker:
        assert broker.choice is BrokerChoice.DOCKER
        assert await connects(broker.url)
        address = parse_broker_url(broker.url).endpoints[0]
    assert not something_listens(address.host, address.port)
