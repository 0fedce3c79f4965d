"""What a controller sees, as tables: in the terminal's height, whatever workers call themselves."""

from io import StringIO
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from broker_controller.dispatch import DispatchMethod
from broker_controller.http.answer_types import (
    BrokerFacts,
    ControllerFacts,
    KeptCounts,
    ModelFacts,
    Status,
    StreamCounts,
)
from broker_controller.http.documentation.operations import EXAMPLE_WORKER
from broker_controller.operator.tables import everything, models_table, overview, workers_table
from broker_controller.process_facts import ProcessFacts
from broker_controller.worker_record import WorkerView


def status_of(workers: list[WorkerView], models: list[ModelFacts]) -> Status:
    return Status(
        ControllerFacts("c", DispatchMethod.QUEUE, ready=False, reasons=["the broker is away"]),
        BrokerFacts(connected=False, blocked=True, problem="away", version=None),
        workers,
        [],
        models,
        StreamCounts(1, 2, 3, 4, 5 * 2**20, []),
        KeptCounts(0, 0, 0),
        {},
        ProcessFacts(1, None, None, None),
    )


def shown(renderable: Any, width: int = 120) -> list[str]:
    written = StringIO()
    Console(width=width, file=written).print(renderable)
    return written.getvalue().splitlines()


@pytest.mark.parametrize("height", [24, 50])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_top_fits_into_the_terminal_and_says_how_many_it_does_not_show(count: int, height: int) -> None:
    workers = [replace(EXAMPLE_WORKER, name=f"w{number:04}") for number in range(count)]
    models = [ModelFacts(f"m{number}", 1, 4, 3, 7, 0.5) for number in range(min(count, 30))]
    lines = shown(everything(status_of(workers, models), height))
    assert len(lines) <= height
    if count == 1000:
        assert lines[-1].startswith("and 9")


def test_what_is_wrong_is_said() -> None:
    text = "\n".join(shown(overview(status_of([], []))))
    for part in ("not ready: the broker is away", "not connected", "holds publishers back", "none", "5.0 MiB held"):
        assert part in text


def test_a_name_is_shown_as_it_is_and_moves_no_cursor() -> None:
    lines = shown(workers_table([replace(EXAMPLE_WORKER, name="[red]a\x1b[2J\nb")]))
    assert lines[1].startswith("[red]a\\x1b[2J\\nb ")


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (7.25, "7.2 s"), (600.0, "10 min"), (7200.0, "2 h")])
def test_a_wait_is_in_a_unit_that_reads_well(seconds: float | None, text: str) -> None:
    assert shown(models_table([ModelFacts("m", 1, 4, 3, 7, seconds)]))[1].rstrip().endswith(text or "7")
