"""Who is in the kernel's queue when the port closes, and those that are met there who say nothing."""

import asyncio
import errno
import logging
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker_controller.http import server
from broker_controller.http.last_requests import accept_waiting, take_no_more
from broker_controller.http.server import Server
from tests.unit.http_double import World
from tests.waiting import eventually

WITHIN = 30.0


class Listener:
    """The kernel's side: what each `accept` gives."""

    def __init__(self, *outcomes: OSError | socket.socket) -> None:
        self._outcomes = list(outcomes)

    def accept(self) -> tuple[socket.socket, None]:
        """As a socket's that does not block."""
        outcome = self._outcomes.pop(0) if self._outcomes else BlockingIOError()
        if isinstance(outcome, OSError):
            raise outcome
        return outcome, None


def accepted(*outcomes: OSError | socket.socket) -> list[socket.socket]:
    return accept_waiting([cast("socket.socket", Listener(*outcomes))])


def test_one_that_has_left_does_not_hide_those_behind_him() -> None:
    with socket.socket() as first, socket.socket() as second:
        assert accepted(first, ConnectionAbortedError(), InterruptedError(), second) == [first, second]


def test_without_files_those_that_were_accepted_are_served() -> None:
    with socket.socket() as first:
        assert accepted(first, OSError(errno.EMFILE, "Too many open files")) == [first]


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels have no such filter")
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_who_comes_while_the_port_closes_is_refused_and_not_reset(family: socket.AddressFamily, host: str) -> None:
    with ExitStack() as opened:
        try:
            listener = opened.enter_context(socket.create_server((host, 0), family=family))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        address = listener.getsockname()[:2]
        early = opened.enter_context(socket.create_connection(address, WITHIN))
        take_no_more([listener])
        with pytest.raises(TimeoutError):
            socket.create_connection(address, 0.1)
        early.sendall(b"early")
        accepted_early = opened.enter_context(listener.accept()[0])
        assert accepted_early.recv(100) == b"early"
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, WITHIN)


@pytest.fixture
def silent() -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """A port, and clients in its queue who never shake hands."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        address = listener.getsockname()
        yield listener, [opened.enter_context(socket.create_connection(address, 10.0)) for _ in range(3)]


@pytest.fixture
def https() -> Server:
    gateway: Any = SimpleNamespace(streams={}, door=SimpleNamespace(leave=lambda: None))
    one = Server(World().app, gateway, drain_timeout=30.0)
    one.config.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    one.lifespan = cast("Any", SimpleNamespace(state={}))
    one.servers = []
    return one


async def test_clients_who_never_shake_hands_are_waited_for_together_and_not_for_long(
    silent: tuple[socket.socket, list[socket.socket]], https: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LINGER", 0.05)
    listener, clients = silent
    await asyncio.wait_for(https._close_port([listener]), 10.0)
    assert [await asyncio.to_thread(client.recv, 1) for client in clients] == [b""] * 3


async def test_a_second_signal_ends_the_wait_for_their_hands(
    silent: tuple[socket.socket, list[socket.socket]], https: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LINGER", 60.0)
    log = logging.getLogger("uvicorn.error")
    monkeypatch.setattr(log, "level", log.level)
    https.leave()
    closing = asyncio.create_task(https._close_port([silent[0]]))
    await eventually(lambda: https._handshakes)
    https.leave()
    await asyncio.wait_for(closing, 10.0)
