"""What no client library sends: each is answered with 4xx or closed, within a bound, and the controller serves on."""

import itertools
import re
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.acceptance.fleet import Fleet, RunningController
from tests.acceptance.odd_requests import BODY, EMPTY, HEALTHZ, NONSENSE, TWO_READINGS, UNUSUAL, post
from tests.waiting import eventually_sync

WITHIN = 15.0
"""Seconds in which nonsense is answered; nothing of it takes one."""
REFUSED = {400, 404, 405, 408, 411, 413, 414, 431}


class Client:
    """A bare connection."""

    def __init__(self, controller: RunningController) -> None:
        address = ("localhost", int(controller.url.rpartition(":")[2]))
        self._socket = socket.create_connection(address, timeout=WITHIN)
        self._rest = b""
        """What came together with an answer that was asked for."""

    def send(self, data: bytes) -> None:
        """The other side may have closed already."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def status(self) -> int | None:
        """Of the next answer; None when the connection was closed without one."""
        received, self._rest = self._rest, b""
        while b"\r\n\r\n" not in received:
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            received += data
        status = re.match(rb"HTTP/1\.1 (\d{3})", received)
        assert status is not None, received[:200]
        code = int(status[1])
        if code != 100:
            return code
        self._rest = received.partition(b"\r\n\r\n")[2]
        return self.status()

    def all(self, answers: int) -> bytes:
        """Until so many answers have begun and ended, or the connection is closed."""
        received = b""
        while received.count(b"HTTP/1.1 ") < answers or not received.endswith(b"}"):
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                break
            if not data:
                break
            received += data
        return received

    def reset_when_closed(self) -> None:
        """Leave as a process that was killed with data unread."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def controller(fleet: Fleet) -> RunningController:
    """With a worker."""
    running = fleet.controller()
    fleet.worker("w1")
    running.wait_for_workers("w1")
    return running


def descriptors(controller: RunningController) -> int:
    return len(list(Path(f"/proc/{controller.process.pid}/fd").iterdir()))


def serves(controller: RunningController) -> bool:
    return controller.chat("a b", 2).status_code == 200 and controller.process.returncode is None


def test_nonsense_is_refused_or_closed_and_leaves_nothing_open(controller: RunningController) -> None:
    assert serves(controller)
    before = descriptors(controller)
    wrong: dict[str, int | None] = {}
    for what, data in NONSENSE.items():
        client = Client(controller)
        client.send(data)
        try:
            status = client.status()
        except TimeoutError:
            pytest.fail(f"{what}: no answer within {WITHIN} s")
        finally:
            client.close()
        if status is not None and status not in REFUSED:
            wrong[what] = status
    assert wrong == {}
    assert serves(controller)
    eventually_sync(lambda: descriptors(controller) <= before)
    assert "Traceback" not in controller.process.output()


def test_what_can_be_read_in_two_ways_is_refused_and_nothing_after_it_is_read(controller: RunningController) -> None:
    wrong: dict[str, bytes] = {}
    for what, data in TWO_READINGS.items():
        client = Client(controller)
        client.send(data + HEALTHZ)
        received = client.all(2)
        client.close()
        if not received.startswith(b"HTTP/1.1 400 ") or received.count(b"HTTP/1.1 ") > 1:
            wrong[what] = received
    assert wrong == {}
    assert serves(controller)


def test_what_is_unusual_and_clear_is_answered(controller: RunningController) -> None:
    wrong: dict[str, list[bytes]] = {}
    for what, (head, answers) in UNUSUAL.items():
        client = Client(controller)
        client.send(head + HEALTHZ)
        statuses = re.findall(rb"HTTP/1\.1 (\d{3})", client.all(answers))
        client.close()
        if statuses != [b"200"] * answers:
            wrong[what] = statuses
    assert wrong == {}


def test_a_wish_for_another_protocol_is_passed_over(controller: RunningController) -> None:
    # As Java's own client asks first of all. What follows such a head is still its body, and no request.
    wish = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAA"]
    chunks = b"%x\r\n" % len(BODY) + BODY + b"\r\n" + EMPTY
    client = Client(controller)
    for length, body in ((b"Content-Length: %d" % len(BODY), BODY), (b"Transfer-Encoding: chunked", chunks)):
        head = post(*wish, length, body=b"")
        for parts in ([head, body], [head + body[:1], body[1:]], [head + body]):
            for part in parts:
                client.send(part)
            received = client.all(1)
            assert received.startswith(b"HTTP/1.1 200 ")
            assert b"text_completion" in received
    websocket = b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    client.send(websocket + head + body + HEALTHZ)
    assert re.findall(rb"HTTP/1\.1 (\d{3})", client.all(3)) == [b"200"] * 3
    client.close()


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(
    "half",
    [b"", b"GET /hea", b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-A: ", post(b"Content-Length: 999", body=BODY)],
    ids=["nothing", "half a line", "half a header", "half a body"],
)
def test_a_thousand_that_never_finish_their_request_hold_nobody_up(controller: RunningController, half: bytes) -> None:
    assert serves(controller)
    before = descriptors(controller)
    with ExitStack() as open_ones:
        for _ in range(1000):
            client = Client(controller)
            open_ones.callback(client.close)
            client.send(half)
        eventually_sync(lambda: descriptors(controller) >= before + 1000)
        assert serves(controller)
    eventually_sync(lambda: descriptors(controller) <= before)
    assert "Traceback" not in controller.process.output()


def test_a_request_that_comes_a_byte_at_a_time_is_served(controller: RunningController) -> None:
    client = Client(controller)
    for byte in post(b"Content-Length: %d" % len(BODY)):
        client.send(bytes([byte]))
    assert client.status() == 200
    client.close()


def test_requests_sent_at_once_are_answered_in_their_order(controller: RunningController) -> None:
    client = Client(controller)
    one = post(b"Content-Length: %d" % len(BODY))
    missing = b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
    client.send(one + missing + one + last)
    assert re.findall(rb"HTTP/1\.1 (\d{3})", client.all(4)) == [b"200", b"404", b"200", b"200"]
    client.close()


def test_what_follows_a_request_and_is_none_ends_the_connection_alone(controller: RunningController) -> None:
    client = Client(controller)
    client.send(post(b"Content-Length: %d" % len(BODY)) + b"\x00\x01nonsense\r\n\r\n")
    received = client.all(3)
    assert received.count(b"HTTP/1.1 200") <= 1
    client.close()
    assert serves(controller)


def test_clients_that_leave_before_their_requests_end_leave_nothing(controller: RunningController) -> None:
    halves = [
        b"POST /v1/comp",
        b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Le",
        post(b"Content-Length: 999"),
        post(b"Transfer-Encoding: chunked", body=b"ff\r\n" + BODY),
    ]
    assert serves(controller)
    before = descriptors(controller)
    for half, reset in itertools.product(halves, (False, True)):
        for _ in range(50):
            client = Client(controller)
            client.send(half)
            if reset:
                client.reset_when_closed()
            client.close()
    assert serves(controller)
    eventually_sync(lambda: descriptors(controller) <= before)
    eventually_sync(lambda: controller.get("/status")["streams"]["inflight_bytes"] == 0)
    assert "Traceback" not in controller.process.output()


def test_clients_that_leave_in_the_middle_free_their_slots(controller: RunningController) -> None:
    before = descriptors(controller)
    body = b'{"model": "m", "prompt": "%s", "max_tokens": 1000000, "stream": true}' % (b"a " * 100)
    for _ in range(20):
        client = Client(controller)
        client.send(post(b"Content-Length: %d" % len(body), body=body))
        assert client.status() == 200
        client.close()
    assert serves(controller)
    eventually_sync(lambda: controller.get("/status")["streams"]["running"] == 0)
    eventually_sync(lambda: descriptors(controller) <= before + 1)
