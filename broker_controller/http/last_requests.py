"""Clients that reach a controller in the moment it closes its port: they are served, none is reset or refused.

Used by `server`. A load balancer that goes by refused connections alone then loses no request in a restart.
"""

import asyncio
import ctypes
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from typing import Any, Protocol

LINGER = 1.0
"""Seconds in which whoever was connected when the port closed may still ask for something."""
SETTLE = 0.02
"""Seconds in which a connection that the kernel has begun with is complete."""
_LOOK_INTERVAL = 0.05

_SO_ATTACH_FILTER = 26
_NO_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that has its flags
    (0x45, 0, 1, 0x02),  # SYN?
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # take it
)
"""A program of the classic packet filter."""


class Connection(Protocol):
    """uvicorn's: `cycle` is the latest request, None before the first one."""

    cycle: Any

    def shutdown(self) -> None:
        """Close when the answer that runs is complete; at once where there is none."""


def take_no_more(listeners: Iterable[socket.socket]) -> None:
    """Let the kernel begin no connection more. Those that it has begun with come through, and can be accepted.

    Without it whoever connects between the last `accept` and the closing of the port is reset, with his request. He
    that comes later is refused when his kernel tries again, or served where another process listens on the port, too.
    Linux alone has this (socket(7), SO_ATTACH_FILTER).
    """
    if sys.platform != "linux":
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    for listener in listeners:
        with suppress(OSError):
            listener.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(_NO_SYN), ctypes.addressof(code))
            )


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
