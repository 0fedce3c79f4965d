"""Clients that reach a controller in the moment it closes its port: they are served, none is reset or refused.

Used by `server`. A load balancer that goes by refused connections alone then loses no request in a restart.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Set
from typing import Any, Protocol

LINGER = 1.0
"""Seconds in which whoever was connected when the port closed may still ask for something."""
_LOOK_INTERVAL = 0.05


class Connection(Protocol):
    """uvicorn's: `cycle` is the latest request, None before the first one."""

    cycle: Any

    def shutdown(self) -> None:
        """Close when the answer that runs is complete; at once where there is none."""


def accept_waiting(listeners: Iterable[socket.socket]) -> list[socket.socket]:
    """Whoever the kernel has told already that he is connected. Close the listeners before anything is awaited."""
    accepted = []
    for listener in listeners:
        while True:
            try:
                connection, _ = listener.accept()
            except (ConnectionAbortedError, InterruptedError):
                continue  # this one has left; there may be others
            except OSError:
                break  # there is none, or no more files may be open
            connection.setblocking(False)
            accepted.append(connection)
    return accepted


async def let_them_ask(connections: Set[Connection], hurried: Callable[[], bool]) -> None:
    """Until no connection is idle any more or it is `hurried`, `LINGER` at most.

    Each answer of that time is its connection's last.
    """
    deadline = time.monotonic() + LINGER
    while time.monotonic() < deadline and not hurried():
        idle = False
        for connection in list(connections):
            if connection.cycle is None or connection.cycle.response_complete:
                idle = True
            else:
                connection.shutdown()
        if not idle:
            return
        await asyncio.sleep(_LOOK_INTERVAL)
