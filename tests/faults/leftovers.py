"""What a fleet holds while it does nothing: counted before a fault and after it, the two have to be the same."""

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

from broker_controller.private_node import PrivateNode
from tests.acceptance.fleet import RunningController

FILES_SLACK = 6
"""Open files: connections that are kept alive, a name server's socket."""


class Leftovers(Struct, frozen=True):
    """Counts of what nobody should hold. `consumers` is by queue, for the queues that all workers share."""

    streams: int
    bytes_held: int
    slots_taken: int
    messages: int
    consumers: int
    files: int


def count(controller: RunningController, node: PrivateNode, prefix: str) -> Leftovers:
    """Look now. Wills are not counted: each worker holds one, unacked, as long as it lives."""
    status = controller.get("/status")
    streams = status["streams"]
    queues = [queue for queue in _queues(node) if queue["name"].startswith(f"{prefix}.")]
    work = [queue for queue in queues if ".will." not in queue["name"]]
    return Leftovers(
        streams=streams["running"] + streams["waiting"],
        bytes_held=streams["inflight_bytes"],
        slots_taken=sum(worker["running"] for worker in status["workers"] if worker["state"] == "ready"),
        messages=sum(queue["messages"] for queue in work),
        consumers=sum(queue["consumers"] for queue in work if queue["name"].endswith("model.m")),
        files=len(list(Path(f"/proc/{controller.process.pid}/fd").iterdir())),
    )


def same(before: Leftovers, after: Leftovers) -> bool:
    """Whether nothing is left over."""
    nothing = (after.streams, after.bytes_held, after.slots_taken, after.messages) == (0, 0, 0, 0)
    return nothing and after.files <= before.files + FILES_SLACK


def _queues(node: PrivateNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        node.rabbitmqctl("list_queues", "name", "messages", "consumers", "--formatter", "json")
    )
    return found
