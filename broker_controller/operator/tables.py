"""What a controller sees, as tables for a terminal. Used by `commands`."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from broker_controller.http.answer_types import ModelFacts, Status
from broker_controller.worker_record import RecordState, WorkerView

_STYLES = {
    RecordState.READY: "green",
    RecordState.DRAINING: "yellow",
    RecordState.LOST: "red",
    RecordState.INCOMPATIBLE: "red",
}


def overview(status: Status) -> RenderableType:
    """The controller, the broker, and its requests, in a few lines."""
    controller, broker, streams = status.controller, status.broker, status.streams
    ready = "[green]ready[/]" if controller.ready else f"[red]not ready[/]: {_plain('; '.join(controller.reasons))}"
    connected = "[green]connected[/]" if broker.connected else "[red]not connected[/]"
    blocked = ", [red]holds publishers back[/]" if broker.blocked else ""
    states = [worker.state for worker in status.workers]
    workers = ", ".join(
        f"{states.count(state)} [{_STYLES[state]}]{state}[/]" for state in RecordState if state in states
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_row("controller", f"{_plain(controller.id)}, {ready}, dispatch {controller.dispatch_method}")
    grid.add_row("broker", f"RabbitMQ {broker.version or '?'}, {connected}{blocked}")
    grid.add_row("workers", workers or "[yellow]none[/]")
    grid.add_row(
        "requests",
        f"{streams.running} running, {streams.waiting} waiting, {streams.finished} complete, {streams.failed} failed"
        f" since its start, {_size(streams.inflight_bytes)} held",
    )
    return grid


def models_table(models: Iterable[ModelFacts]) -> Table:
    """A row a model."""
    table = _table("model", right=("workers", "slots", "free", "queue", "wait"))
    for model in models:
        wait = "" if model.forecast_seconds is None else _seconds(model.forecast_seconds)
        queue = f"[yellow]{model.queue_length}[/]" if model.queue_length else "0"
        workers = str(model.workers) if model.workers else "[red]0[/]"
        table.add_row(_plain(model.name), workers, str(model.slots), str(model.free), queue, wait)
    return table


def workers_table(workers: Iterable[WorkerView], most: int | None = None) -> Table:
    """A row a worker, `most` at most: then a last row says how many more there are."""
    rows = sorted(workers, key=lambda worker: worker.name)
    table = _table("worker", "state", "models", right=("slots", "running", "waiting", "done", "heard", "shim"))
    for worker in rows[:most]:
        table.add_row(
            _plain(worker.name),
            f"[{_STYLES[worker.state]}]{worker.state}[/]",
            _plain(", ".join(card.name for card in worker.models)),
            str(worker.slots),
            str(worker.running),
            str(worker.waiting),
            str(worker.requests_done),
            f"{_seconds(worker.last_seen_age)} ago",
            _plain(worker.shim),
        )
    if most is not None and len(rows) > most:
        table.add_row(f"[dim]and {len(rows) - most} more[/]")
    return table


def everything(status: Status, height: int | None = None) -> RenderableType:
    """All of it; within so many lines, as far as that goes."""
    models, most = status.models, None
    if height is not None:
        models = models[: max(1, height // 4)]
        # The overview, the two headings with their lines, and empty lines between.
        most = max(1, height - 4 - len(models) - 6)
    return Group(overview(status), "", models_table(models), "", workers_table(status.workers, most))


def _table(*left: str, right: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in left:
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _plain(text: str) -> str:
    """Whatever a worker calls itself, it neither colours nor moves the terminal."""
    shown = text if text.isprintable() else text.encode("unicode_escape").decode()
    return escape(shown)


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
