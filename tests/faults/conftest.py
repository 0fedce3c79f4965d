"""Fleets on RabbitMQ nodes that tests may stop, kill and restart; and the table of what came of every fault."""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from broker_controller.private_node import PrivateNode
from tests.acceptance.fleet import Fleet
from tests.faults import report
from tests.faults.history import Exchange, Verdict, judge
from tests.faults.scene import Scene
from tests.faults.settings import settings_of_environment
from tests.processes import Processes

Record = Callable[[str, Sequence[Exchange], float], None]


@pytest.fixture
def node() -> Iterator[PrivateNode]:
    """A broker for this test alone."""
    with PrivateNode() as private:
        yield private


@pytest.fixture(scope="session")
def unharmed_node() -> Iterator[PrivateNode]:
    """A broker for all tests of this process that do it no harm."""
    with PrivateNode() as private:
        yield private


@pytest.fixture
def fleet(processes: Processes, node: PrivateNode, free_port: Callable[[], int]) -> Iterator[Fleet]:
    """Controllers and workers on a broker of their own."""
    with httpx.Client(timeout=90) as client:
        yield Fleet(processes, node.url, "bc", free_port, client)


@pytest.fixture
async def scene(
    processes: Processes, unharmed_node: PrivateNode, prefix: str, free_port: Callable[[], int], tmp_path: Path
) -> AsyncIterator[Scene]:
    """A scene on the broker that stays unharmed."""
    with httpx.Client(timeout=90) as client:
        fleet = Fleet(processes, unharmed_node.url, prefix, free_port, client)
        made = Scene(processes, fleet, unharmed_node, prefix, journal=tmp_path)
        async with made.load:
            yield made


@pytest.fixture
async def broker_scene(processes: Processes, node: PrivateNode, fleet: Fleet, tmp_path: Path) -> AsyncIterator[Scene]:
    """A scene on a broker of its own."""
    made = Scene(processes, fleet, node, "bc", journal=tmp_path)
    async with made.load:
        yield made


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """`record(fault, exchanges, fault_at)`: rows for the table, and nothing lost, duplicated or hung in any of them."""

    def keep(fault: str, exchanges: Sequence[Exchange], fault_at: float) -> None:
        for row in report.rows_of(fault, exchanges, fault_at, settings_of_environment().name):
            request.node.user_properties.append(("matrix", row))
        right = (Verdict.COMPLETE, Verdict.ERROR)
        wrong = [exchange for exchange in exchanges if judge(exchange) not in right]
        assert exchanges
        assert not wrong, [(judge(exchange), exchange) for exchange in wrong[:3]]

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, and write it to the file FAULTS_JSON."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, [])]
    rows = [row for each in reports for name, row in each.user_properties if name == "matrix" and each.when == "call"]
    if not rows:
        return
    rows.sort(key=lambda row: (row["fault"], row["state"]))
    terminalreporter.section("faults")
    for line in report.table(rows):
        terminalreporter.write_line(line)
    if path := os.environ.get("FAULTS_JSON"):
        report.write(rows, path)
