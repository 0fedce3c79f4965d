"""A fleet of real processes."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.acceptance.fleet import Fleet
from tests.acceptance.openai_fleet import client as client
from tests.acceptance.openai_fleet import talking as talking
from tests.processes import Processes


@pytest.fixture
def fleet(processes: Processes, broker_url: str, prefix: str, free_port: Callable[[], int]) -> Iterator[Fleet]:
    """Starts controllers and workers that find each other and nobody else."""
    with httpx.Client(timeout=60) as client:
        yield Fleet(processes, broker_url, prefix, free_port, client)
