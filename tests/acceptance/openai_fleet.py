"""One controller and one worker of `openai_engine`, for all tests that ask them things by a client library.

The fixture is imported by the conftest.py of whoever wants it.
"""

import secrets
from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from broker_controller.held_port import HeldPort
from tests.acceptance.fleet import Fleet, RunningController
from tests.processes import Processes

SLOTS = 4


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> Iterator[RunningController]:
    """The controller; models `talker`, `embedder` and `mirror`."""
    processes = Processes(tmp_path_factory.mktemp("talking"))
    prefix = f"t{secrets.token_hex(4)}"
    port = HeldPort()
    try:
        with httpx.Client(timeout=60) as client:
            fleet = Fleet(processes, broker_url, prefix, lambda: port.number, client)
            controller = fleet.controller("--allow-image-url", "images.example.com")
            fleet.openai_worker("talker-1", "--slots", str(SLOTS))
            controller.wait_for_workers("talker-1")
            yield controller
    finally:
        processes.end()
        port.close()


def is_idle(controller: RunningController) -> bool:
    """Nobody's request holds a slot, of the controller or of the worker."""
    status = controller.get("/status")
    return status["streams"]["running"] == 0 and all(model["free"] == SLOTS for model in status["models"])


@pytest.fixture
def client(talking: RunningController) -> Iterator[OpenAI]:
    """OpenAI's, which repeats nothing."""
    with OpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0, timeout=30.0) as made:
        yield made
