"""The programs that this project takes the place of, and ours, on a fleet of their own for each module of tests."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from broker_controller.held_port import HeldPort
from tests.acceptance.fleet import Fleet
from tests.processes import Processes
from tests.upstream.fastchat.programs import FastChat
from tests.upstream.llava.programs import LLaVA


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """As `processes`, for all tests of a module: the upstream programs take seconds to start."""
    started = Processes(tmp_path_factory.mktemp("programs"))
    try:
        yield started
    finally:
        started.end()


@pytest.fixture(scope="module")
def hold_port() -> Iterator[Callable[[], int]]:
    """As `free_port`, for a module."""
    with ExitStack() as held:

        def hold() -> int:
            port = HeldPort()
            held.callback(port.close)
            return port.number

        yield hold


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def fastchat(programs: Processes, hold_port: Callable[[], int], logs: Path) -> Iterator[FastChat]:
    """FastChat's programs."""
    theirs = FastChat(programs, hold_port, logs)
    yield theirs
    theirs.end()


@pytest.fixture(scope="module")
def llava(programs: Processes, hold_port: Callable[[], int], logs: Path) -> Iterator[LLaVA]:
    """LLaVA's programs."""
    theirs = LLaVA(programs, hold_port, logs)
    yield theirs
    theirs.end()


@pytest.fixture(scope="module")
def fleet(programs: Processes, hold_port: Callable[[], int], broker_url: str) -> Iterator[Fleet]:
    """Ours."""
    with httpx.Client(timeout=60) as client:
        yield Fleet(programs, broker_url, f"t{secrets.token_hex(4)}", hold_port, client)
