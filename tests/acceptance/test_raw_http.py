"""What no client library sends: each is answered with 4xx or closed, within a bound, and the controller serves on."""

import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.acceptance.fleet import Fleet, RunningController
from tests.waiting import eventually_sync

WITHIN = 15.0
"""Seconds in which nonsense is answered; nothing of it takes one."""
LONG = 100_000
BODY = b'{"model": "m", "prompt": "a b", "max_tokens": 2}'
REFUSED = {400, 404, 405, 408, 411, 413, 414, 431}


def post(*headers: bytes, body: bytes = BODY) -> bytes:
    head = b"\r\n".join([b"POST /v1/completions HTTP/1.1", b"Host: h", b"Content-Type: application/json", *headers])
    return head + b"\r\n\r\n" + body


NONSENSE = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "another protocol": b"AMQP\x00\x00\x09\x01\r\n\r\n",
    "an unknown version": b"GET /healthz HTTP/9.9\r\nHost: h\r\n\r\n",
    "an unknown method": b"BREW /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
    "a method with control characters": b"G\x00T /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
    "a method that is not for this path": b"DELETE /v1/completions HTTP/1.1\r\nHost: h\r\n\r\n",
    "the method of a tunnel": b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a path that is not UTF-8": b"GET /\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n",
    "an encoded path that is not UTF-8": b"GET /v1/models/%ff%fe%c3 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a worker's name that is not UTF-8": b"POST /worker/%ff%00/worker_get_status HTTP/1.1\r\nHost: h\r\n"
    b"Content-Length: 0\r\n\r\n",
    "a path with a NUL": b"GET /v1/models/%00 HTTP/1.1\r\nHost: h\r\n\r\n",
    "an endless path": b"GET /" + b"a" * LONG + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "an endless header": b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * LONG,
    "an endless name of a header": b"GET /healthz HTTP/1.1\r\nHost: h\r\n" + b"a" * LONG,
    "endlessly many headers": b"GET /healthz HTTP/1.1\r\nHost: h\r\n"
    + b"".join(b"X-%d: a\r\n" % i for i in range(LONG // 9)),
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: h\r\nnothing\r\n\r\n",
    "a header with a NUL": b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-A: a\x00b\r\n\r\n",
    "a length that is no number": post(b"Content-Length: many"),
    "a negative length": post(b"Content-Length: -1"),
    "a length beyond 64 bits": post(b"Content-Length: 99999999999999999999999"),
    "a length that is too large": post(b"Content-Length: 999999999999"),
    "two lengths": post(b"Content-Length: 4", b"Content-Length: %d" % len(BODY)),
    "a length beside chunks": post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "a length that cuts the body": post(b"Content-Length: 10"),
    "chunks without a size": post(b"Transfer-Encoding: chunked", body=b"zz\r\n" + BODY),
    "a chunk of a negative size": post(b"Transfer-Encoding: chunked", body=b"-5\r\nabcde\r\n0\r\n\r\n"),
    "a chunk of a size beyond 64 bits": post(b"Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\nabc"),
    "a chunk longer than it says": post(b"Transfer-Encoding: chunked", body=b"3\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "an unknown encoding": post(b"Transfer-Encoding: gzip"),
    "a body that is not UTF-8": post(b"Content-Length: 4", body=b"\xff\xfe\xfd\xfc"),
    "an expectation beside an unreadable body": post(b"Expect: 100-continue", b"Content-Length: 3", body=b"{{{"),
}


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
            data = self._socket.recv(65536)
            if not data:
                break
            received += data
        return received

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


@pytest.mark.parametrize(
    "half",
    [b"", b"GET /hea", b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-A: ", post(b"Content-Length: 999", body=BODY)],
    ids=["nothing", "half a line", "half a header", "half a body"],
)
def test_hundreds_that_never_finish_their_request_hold_nobody_up(controller: RunningController, half: bytes) -> None:
    assert serves(controller)
    before = descriptors(controller)
    with ExitStack() as open_ones:
        for _ in range(300):
            client = Client(controller)
            open_ones.callback(client.close)
            client.send(half)
        eventually_sync(lambda: descriptors(controller) >= before + 300)
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
