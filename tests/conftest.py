"""What the tests share: one broker for the whole run, a prefix for each test, real processes, and waiting.

The broker is AMQP_URL, else a private RabbitMQ node, else RabbitMQ in Docker. Under xdist the controlling process owns
it and tells the workers its URL. A run of unit tests alone starts none.
"""

import os
import resource
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from broker_controller import open_files
from broker_controller.held_port import HeldPort
from broker_controller.local_broker import private_broker
from tests import hang_guard, waiting
from tests.processes import Processes

# How fast a machine makes examples is no matter of right and wrong.
settings.register_profile("ours", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")


class SharedBroker:
    """The broker of this run, started when its URL is asked for the first time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stack = ExitStack()

    def url(self) -> str:
        if not self._url:
            self._url = self._stack.enter_context(private_broker()).url
        return self._url

    def close(self) -> None:
        self._stack.close()


_SHARED_BROKER = pytest.StashKey[SharedBroker]()


def pytest_configure(config: pytest.Config) -> None:
    from_the_controlling_process: dict[str, str] = getattr(config, "workerinput", {})
    url = from_the_controlling_process.get("broker_url") or os.environ.get("AMQP_URL", "")
    config.stash[_SHARED_BROKER] = SharedBroker(url)
    hang_guard.open_stderr(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: called in the controlling process for each worker, before that starts and knows its tests."""
    asked_for = [Path(argument.partition("::")[0]) for argument in node.config.args]
    if not all("unit" in path.parts for path in asked_for):
        node.workerinput["broker_url"] = node.config.stash[_SHARED_BROKER].url()


def pytest_unconfigure(config: pytest.Config) -> None:
    if shared := config.stash.get(_SHARED_BROKER, None):
        shared.close()
    hang_guard.close_stderr(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with hang_guard.hang_guard(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with hang_guard.hang_guard(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    with hang_guard.hang_guard(item):
        yield


@pytest.fixture(scope="session")
def broker_url(request: pytest.FixtureRequest) -> str:
    """The URL of a real RabbitMQ that the whole run shares: use `prefix` to be alone on it."""
    return request.config.stash[_SHARED_BROKER].url()


@pytest.fixture
def prefix() -> str:
    """A prefix of exchanges and queues that no other test has."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def eventually() -> waiting.Eventually:
    """`await eventually(condition, within=30.0)`."""
    return waiting.eventually


@pytest.fixture
def eventually_sync() -> waiting.EventuallySync:
    """`eventually_sync(condition, within=30.0)`."""
    return waiting.eventually_sync


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """`free_port()`: a TCP port on the loopback that nobody listens on, and that is this test's until its end."""
    held: list[HeldPort] = []

    def hold() -> int:
        held.append(HeldPort())
        return held[-1].number

    yield hold
    for port in held:
        port.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    """The process of the tests may have some thousand connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files.raise_limit()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """`processes.start("broker-controller", "--port", …) -> Process`; all are ended after the test."""
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        started.end()
