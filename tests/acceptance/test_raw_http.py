"""What no client library sends: each is answered with 4xx or closed, within a bound, and the controller serves on."""

import re
import resource
import socket
import struct
from collections.abc import Iterator
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
    "a chunk that ends without a line break": post(b"Transfer-Encoding: chunked", body=b"1\r\n{}0\r\n\r\n"),
    "a chunk whose size has a sign": post(b"Transfer-Encoding: chunked", body=b"+2\r\n{}\r\n0\r\n\r\n"),
    "a chunk whose size has a prefix": post(b"Transfer-Encoding: chunked", body=b"0x2\r\n{}\r\n0\r\n\r\n"),
    "chunks with bare line feeds": post(b"Transfer-Encoding: chunked", body=b"2\n{}\n0\n\n"),
    "a length among the trailers": post(
        b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n"
    ),
    "an unknown encoding": post(b"Transfer-Encoding: gzip"),
    "a body that is not UTF-8": post(b"Content-Length: 4", body=b"\xff\xfe\xfd\xfc"),
    "an expectation beside an unreadable body": post(b"Expect: 100-continue", b"Content-Length: 3", body=b"{{{"),
}


EMPTY = b"0\r\n\r\n"
TWO_READINGS = {
    "a length beside chunks": post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=EMPTY),
    "chunks beside a length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=EMPTY),
    "two lengths": post(b"Content-Length: 0", b"Content-Length: 5", body=b"hello"),
    "the same length twice": post(b"Content-Length: 0", b"Content-Length: 0", body=b""),
    "a list of lengths": post(b"Content-Length: 0, 5", body=b"hello"),
    "a length with a sign": post(b"Content-Length: +5", body=b"hello"),
    "a length in another base": post(b"Content-Length: 0x5", body=b"hello"),
    "no length": post(b"Content-Length: ", body=b""),
    "a space before the colon of a length": post(b"Content-Length : 5", body=b"hello"),
    "a space before the colon of an encoding": post(b"Transfer-Encoding : chunked", body=EMPTY),
    "a second encoding": post(b"Transfer-Encoding: gzip, chunked", body=EMPTY),
    "a second encoding after the chunks": post(b"Transfer-Encoding: chunked, gzip", body=EMPTY),
    "no encoding and chunks": post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=EMPTY),
    "chunks twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=EMPTY),
    "an encoding that looks like chunks": post(b"Transfer-Encoding: \x0bchunked", body=EMPTY),
    "an encoding on a line of its own": post(b"Transfer-Encoding:\r\n chunked", body=EMPTY),
    "chunks in HTTP/1.0": post(b"Transfer-Encoding: chunked", body=EMPTY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "bare line feeds": post(b"Content-Length: 0", body=b"").replace(b"\r\n", b"\n"),
    "a bare line feed in a header": post(b"X-A: a\nContent-Length: 5", b"Content-Length: 0", body=b""),
    "a bare carriage return in a header": post(b"X-A: a\rContent-Length: 5", b"Content-Length: 0", body=b""),
    "a NUL in a header": post(b"X-A: a\x00b", b"Content-Length: 0", body=b""),
    "a control character in a header": post(b"X-A: a\x01b", b"Content-Length: 0", body=b""),
    "a NUL in the name of a header": post(b"X\x00A: a", b"Content-Length: 0", body=b""),
    "a header without a name": post(b": a", b"Content-Length: 0", body=b""),
    "two hosts": post(b"Host: elsewhere", b"Content-Length: 0", body=b""),
}
"""What one program may take for one request and another for two, or for one of another host."""
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"


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


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process and those that it starts may have a thousand connections."""
    limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


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


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", False),
        (b"GET http://elsewhere:1/healthz?a=b HTTP/1.1\r\nHost: h\r\n\r\n", True),
        (b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", False),
        (b"GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", True),
        (b"\r\n\r\n" + HEALTHZ, True),
    ],
    ids=["HTTP/1.0", "a proxy's target", "to be closed", "a body to a GET", "line breaks before it"],
)
def test_what_is_unusual_and_clear_is_answered(controller: RunningController, head: bytes, keeps: bool) -> None:
    client = Client(controller)
    client.send(head + HEALTHZ)
    assert re.findall(rb"HTTP/1\.1 (\d{3})", client.all(2)) == [b"200"] * (2 if keeps else 1)
    client.close()


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (b"Content-Length: %d" % len(BODY), BODY),
        (b"Transfer-Encoding: chunked", b"%x\r\n" % len(BODY) + BODY + b"\r\n" + EMPTY),
    ],
    ids=["a length", "chunks"],
)
def test_a_wish_for_another_protocol_is_passed_over(controller: RunningController, length: bytes, body: bytes) -> None:
    # As Java's own client asks first of all. What follows such a head is still its body, and no request.
    head = post(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAA", length, body=b"")
    client = Client(controller)
    for parts in ([head, body], [head + body[:1], body[1:]], [head + body]):
        for part in parts:
            client.send(part)
        received = client.all(1)
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"text_completion" in received
    wish = b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    client.send(wish + head + body + HEALTHZ)
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


@pytest.mark.parametrize(
    "half",
    [
        b"POST /v1/comp",
        post(b"X-A: a")[:-90],
        post(b"Content-Length: 999"),
        post(b"Transfer-Encoding: chunked", body=b"ff\r\n" + BODY),
    ],
    ids=["in the line", "in the headers", "in the body", "in a chunk"],
)
def test_clients_that_leave_before_their_requests_end_leave_nothing(controller: RunningController, half: bytes) -> None:
    assert serves(controller)
    before = descriptors(controller)
    for reset in (False, True):
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
