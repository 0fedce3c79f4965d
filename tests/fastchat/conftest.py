"""FastChat's programs from their own environment, and ours, on a fleet of their own for each module of tests."""

import secrets
from collections.abc import Callable, Iterator

import httpx
import pytest

from broker_controller import amqp_probe
from tests.acceptance.fleet import Fleet
from tests.fastchat.programs import INTERPRETER, FastChat
from tests.processes import Processes


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """As `processes`, for all tests of a module: FastChat's programs take seconds to start."""
    if not INTERPRETER.exists():
        pytest.skip("there is no .venv-fastchat: `make test-fastchat` makes it")
    started = Processes(tmp_path_factory.mktemp("programs"))
    try:
        yield started
    finally:
        started.end()


@pytest.fixture(scope="module")
def fastchat(programs: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastChat]:
    """FastChat's programs."""
    theirs = FastChat(programs, tmp_path_factory.mktemp("logs"))
    yield theirs
    theirs.end()


@pytest.fixture(scope="module")
def fleet(programs: Processes, broker_url: str) -> Iterator[Fleet]:
    """Ours."""
    free_port: Callable[[], int] = amqp_probe.free_port
    with httpx.Client(timeout=60) as client:
        yield Fleet(programs, broker_url, f"t{secrets.token_hex(4)}", free_port, client)
