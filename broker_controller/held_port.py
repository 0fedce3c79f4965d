"""A TCP port that stays ours until a server listens on it, and while that server is down.

Used by private_node.py and by the tests: between the choice of a port and the start of its server lie seconds, in which
another process may choose the same.
"""

import contextlib
import socket
import sys

from broker_controller.amqp_probe import free_port

_TRIES = 100


class HeldPort:
    """Bound, with SO_REUSEADDR, and never listened on.

    Linux then lets a server with SO_REUSEADDR bind it as well and listen, as RabbitMQ's and asyncio's do; whoever looks
    for a free port binds without, and is refused. Other systems would refuse the server, too: there nothing is held.
    """

    def __init__(self, host: str = "127.0.0.1", number: int = 0) -> None:
        """0 takes a free one.

        Raises:
            OSError: this port is taken, or all are.
        """
        self._socket, self.number = _hold(host, number) if number else _hold_any(host)

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()


def _hold_any(host: str) -> tuple[socket.socket, int]:
    for _ in range(_TRIES):
        with contextlib.suppress(OSError):  # another process was faster
            return _hold(host, free_port(host))
    raise OSError(f"no TCP port could be had on {host}")


def _hold(host: str, number: int) -> tuple[socket.socket, int]:
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, number))
        if sys.platform != "linux":
            held.close()
    except OSError:
        held.close()
        raise
    return held, number
