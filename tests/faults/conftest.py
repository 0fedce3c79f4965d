"""A fleet on a RabbitMQ node of its own, which a test may stop, kill and restart."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from broker_controller.private_node import PrivateNode
from tests.acceptance.fleet import Fleet
from tests.processes import Processes


@pytest.fixture
def node() -> Iterator[PrivateNode]:
    """A broker for this test alone."""
    with PrivateNode() as private:
        yield private


@pytest.fixture
def fleet(processes: Processes, node: PrivateNode, free_port: Callable[[], int]) -> Iterator[Fleet]:
    """Controllers and workers on that broker."""
    with httpx.Client(timeout=90) as client:
        yield Fleet(processes, node.url, "bc", free_port, client)
