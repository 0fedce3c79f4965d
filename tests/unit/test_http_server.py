"""Listening, and the log's lines: what an operator sees first."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from broker_controller.http.server import ListenError, Server, listen
from broker_controller.log import set_up
from broker_wire.amqp.link import silence_pika
from broker_wire.log_lines import LineFormatter
from tests.unit.http_double import World


def test_a_free_port_is_the_same_for_all_addresses_of_a_name() -> None:
    sockets = listen("localhost", 0)
    try:
        assert len({one.getsockname()[1] for one in sockets}) == 1
        assert socket.AF_INET in {one.family for one in sockets}
    finally:
        for one in sockets:
            one.close()


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=f"port {port} on 127.0.0.1 is taken .* choose another with --port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "sentence"), [("no.such.host.invalid", "does not resolve"), ("192.0.2.1", "cannot listen on 192.0.2.1")]
)
def test_a_host_that_is_not_ours_is_told(host: str, sentence: str) -> None:
    with pytest.raises(ListenError, match=sentence):
        listen(host, 0)


def test_a_certificate_that_is_none_is_told(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    certificate.write_text("no PEM")
    world = World()
    with pytest.raises(ListenError, match=r"certificate\.pem"):
        Server(world.app, cast("Any", world.gateway), drain_timeout=1.0, certificate=certificate)


@pytest.fixture
def own_logging() -> Iterator[None]:
    """What a test sets up for the whole process is as before afterwards."""
    names = (None, "pika", "uvicorn.error", "asyncio", "httpx", "httpcore")
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    for logger, level in before:
        logger.setLevel(level)


def line(message: str, *arguments: object, failure: Any = None) -> str:
    record = logging.LogRecord("any", logging.WARNING, "file", 1, message, arguments, failure)
    record.created, record.msecs = 1_700_000_000.0, 7.0
    return LineFormatter().format(record)


def test_a_line_of_the_log_has_its_time_its_level_and_the_event() -> None:
    assert line("worker lost worker=%s", "w1") == "2023-11-14T22:13:20.007Z WARNING worker lost worker=w1"


def test_nobodys_text_looks_like_a_line_of_its_own() -> None:
    assert line("path=%s", "a\n2023 ERROR b\x1b[31m\u2028é").endswith("path=a\\n2023 ERROR b\\x1b[31m\\u2028é")


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_pika_says_of_a_refused_connection_is_for_debugging(level: str, own_logging: None) -> None:
    set_up(level, "text")
    silence_pika()
    assert logging.getLogger("pika.connection").isEnabledFor(logging.ERROR) is (level == "debug")


def test_a_traceback_follows_its_line() -> None:
    try:
        int("x")
    except ValueError as error:
        lines = line("it failed", failure=(type(error), error, error.__traceback__)).splitlines()
    assert lines[0].endswith("WARNING it failed")
    assert lines[-1].startswith("ValueError: invalid literal")
