"""The choice of a broker, as far as none has to be started for it."""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker_controller import local_broker as module
from broker_controller.amqp_probe import PROTOCOL_HEADER, answers_amqp, free_port, something_listens
from broker_controller.docker_broker import DockerBrokerError
from broker_controller.held_port import HeldPort
from broker_controller.local_broker import BrokerChoice, NoBrokerError, local_broker
from broker_controller.private_node import PrivateNode, PrivateNodeError

LOOPBACK = "127.0.0.1"


@contextmanager
def listener_that_answers(answer: bytes) -> Iterator[int]:
    """Answer each connection's first bytes with `answer`, and close it."""
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(len(PROTOCOL_HEADER))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_method_frame_on_channel_0_is_an_amqp_broker() -> None:
    with listener_that_answers(b"\x01\x00\x00\x00\x00\x01") as port:
        assert answers_amqp(LOOPBACK, port)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x01", b"", PROTOCOL_HEADER])
def test_anything_else_that_listens_is_not(answer: bytes) -> None:
    with listener_that_answers(answer) as port:
        assert something_listens(LOOPBACK, port)
        assert not answers_amqp(LOOPBACK, port)


def test_a_listener_that_says_nothing_is_not() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        assert not answers_amqp(LOOPBACK, server.getsockname()[1], timeout=0.2)


def test_a_port_where_nobody_listens_is_not() -> None:
    port = free_port()
    assert not something_listens(LOOPBACK, port)
    assert not answers_amqp(LOOPBACK, port)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says so in a file")
def test_a_free_port_is_never_one_of_outgoing_connections() -> None:
    first_ephemeral, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert all(1024 < free_port() < first_ephemeral for _ in range(50))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a server could not have it, either")
def test_a_held_port_is_a_servers_and_nobody_elses() -> None:
    held = HeldPort(LOOPBACK)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((LOOPBACK, held.number))
    with socket.create_server((LOOPBACK, held.number)):
        assert something_listens(LOOPBACK, held.number)
    assert not something_listens(LOOPBACK, held.number)
    held.close()
    with socket.socket() as other:
        other.bind((LOOPBACK, held.number))


def test_a_given_address_is_taken_as_it_is() -> None:
    url = "amqp://u:secret@elsewhere:5672/"
    with local_broker(url) as broker:
        assert (broker.url, broker.choice) == (url, BrokerChoice.GIVEN)
        assert "secret" not in broker.describe()


def test_one_that_runs_here_is_used_before_one_of_our_own() -> None:
    with listener_that_answers(b"\x01\x00\x00\x00\x00\x01") as port, local_broker(None, port=port) as broker:
        assert broker.choice is BrokerChoice.RUNNING
        assert broker.url == f"amqp://guest:guest@localhost:{port}/"
        assert str(port) in broker.describe()


def test_a_port_taken_by_something_else_is_said_so() -> None:
    with (
        listener_that_answers(b"220 mail.example.org ESMTP\r\n") as port,
        pytest.raises(NoBrokerError, match=rf"(?s){port}.*does not speak AMQP.*--broker-url"),
        local_broker(None, port=port),
    ):
        pass


def test_with_neither_rabbitmq_nor_docker_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def no_docker(port: int) -> Iterator[str]:
        raise DockerBrokerError("Docker does not answer: no socket")
        yield ""

    monkeypatch.setattr(module, "find_server", lambda: None)
    monkeypatch.setattr(module, "docker_broker", no_docker)
    with pytest.raises(NoBrokerError) as raised, local_broker(None, port=free_port()):
        pass
    for part in ("apt-get install rabbitmq-server", "no socket", "--broker-url"):
        assert part in str(raised.value)


def test_without_rabbitmq_docker_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def some_docker(port: int) -> Iterator[str]:
        yield f"amqp://guest:guest@localhost:{port}/"

    monkeypatch.setattr(module, "find_server", lambda: None)
    monkeypatch.setattr(module, "docker_broker", some_docker)
    port = free_port()
    with local_broker(None, port=port) as broker:
        assert (broker.choice, broker.url) == (BrokerChoice.DOCKER, f"amqp://guest:guest@localhost:{port}/")


def test_a_server_that_ends_at_once_is_an_error_with_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = tmp_path / "rabbitmq-server"
    server.write_text("#!/bin/sh\necho erl: not found\nexit 1\n")
    server.chmod(0o755)
    monkeypatch.setattr("broker_controller.private_node.find_server", lambda: server)
    node = PrivateNode()
    with pytest.raises(PrivateNodeError, match=r"(?s)ended while it started.*erl: not found"):
        node.start()
    with pytest.raises(PrivateNodeError, match="not been started"):
        _ = node.folder


def test_a_server_that_never_answers_is_an_error_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = tmp_path / "rabbitmq-server"
    server.write_text("#!/bin/sh\necho waiting for nothing\nexec sleep 600\n")
    server.chmod(0o755)
    monkeypatch.setattr("broker_controller.private_node.find_server", lambda: server)
    with pytest.raises(PrivateNodeError, match=r"(?s)did not answer within.*waiting for nothing"):
        PrivateNode(start_seconds=0.5).start()
