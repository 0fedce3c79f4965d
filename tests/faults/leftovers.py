"""What a fleet holds while it does nothing: counted before a fault and after it, when nothing may be left over.

Whoever calls polls: a slot is free a moment after its answer ended, a queue's consumers come back one by one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from broker_controller.private_node import PrivateNode
from tests.acceptance.fleet import RunningController

FILES_SLACK = 6
"""Open files: connections that are kept alive, a name server's socket."""
TASKS_SLACK = 2
"""Who asks for the status is a task himself."""


class Leftovers(Struct, frozen=True):
    """One look.

    Attributes:
        busy: what has to be 0 in a fleet that does nothing, by its name.
        files: open ones of each process that lives, by its id.
        tasks: of the controller's event loop.
    """

    busy: dict[str, int]
    files: dict[int, int]
    tasks: int


def count(controller: RunningController, pids: list[int], nodes: Sequence[PrivateNode], prefix: str) -> Leftovers:
    """Look now. `nodes` are those of one broker."""
    status = controller.get("/status")
    workers = [worker for worker in status["workers"] if worker["state"] == "ready"]
    busy = {name: status["streams"][name] for name in ("running", "waiting", "inflight_bytes")}
    for worker in workers:
        busy[f"requests of {worker['name']}"] = worker["running"]
        busy[f"slots of {worker['name']} that are not free"] = worker["slots"] - worker["free"]
    busy |= _of_queues(_queues(nodes, prefix), len(workers))
    tasks = status.get("process", {}).get("tasks", 0)
    return Leftovers(busy, {pid: _open_files(pid) for pid in pids}, tasks)


def problems(before: Leftovers, after: Leftovers) -> list[str]:
    """What is left over, in words."""
    found = [f"{name}: {number}" for name, number in after.busy.items() if number]
    for pid, number in after.files.items():
        # A process that was started in between has nothing to be compared with.
        if number > before.files.get(pid, number) + FILES_SLACK:
            found.append(f"open files of process {pid}: {number}, were {before.files[pid]}")
    if after.tasks > before.tasks + TASKS_SLACK:
        found.append(f"tasks of the controller: {after.tasks}, were {before.tasks}")
    return found


def _of_queues(queues: list[dict[str, Any]], workers: int) -> dict[str, int]:
    """Messages; consumers of what all workers share, one each; wills, one unacked each."""
    busy = dict[str, int]()
    wills = 0
    for queue in queues:
        name = queue["name"]
        if ".will." in name:
            wills += queue["messages"]
        else:
            busy[f"messages in {name}"] = queue["messages"]
        if ".model." in name or ".resume." in name:
            busy[f"consumers of {name} beyond one a worker"] = queue["consumers"] - workers
    busy["wills beyond one a worker"] = wills - workers
    return busy


def _queues(nodes: Sequence[PrivateNode], prefix: str) -> list[dict[str, Any]]:
    # Each node is asked for its own: the others of a cluster could not answer a command that does not listen.
    columns = ("name", "messages", "consumers")
    listed = [node.rabbitmqctl("list_queues", "--local", *columns, "--formatter", "json") for node in nodes]
    # The server-named ones are exclusive, gone with their connection, and cannot be told from other fleets'.
    return [queue for each in listed for queue in json.loads(each) if queue["name"].startswith(f"{prefix}.")]


def _open_files(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except FileNotFoundError:
        return 0
