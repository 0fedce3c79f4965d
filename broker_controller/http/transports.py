"""The transport as a request is given it to answer: uvicorn's cycle writes to it, asks if it closes, and closes it.

Put in by `connection`, and by it alone.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

if TYPE_CHECKING:
    from broker_controller.http.connection import BoundedConnection


class HeldHead:
    """Holds an answer's head back for the first of its body, for no longer than the event loop's tick.

    Each write is a system call, the dearest thing in a short answer. After the second one the cycle has the transport
    itself.
    """

    __slots__ = ("_cycle", "_head", "_loop", "_transport")

    def __init__(
        self, cycle: RequestResponseCycle, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._cycle = cycle
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """The head, or the first of the body."""
        if not self._head and data.startswith(b"HTTP/") and self._cycle.response_started:
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(self._head + data)
            self._let_go()

    def is_closing(self) -> bool:
        """The transport's word."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Nothing more is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._let_go()

    def _let_go(self) -> None:
        self._head = b""
        cycle: Any = self._cycle
        if cycle.transport is self:
            cycle.transport = self._transport


class Unread:
    """For a request whose body is not here in whole: to close it is to linger."""

    __slots__ = ("_connection",)

    def __init__(self, connection: "BoundedConnection") -> None:
        self._connection = connection

    def write(self, data: bytes) -> None:
        """At once."""
        self._connection.transport.write(data)

    def is_closing(self) -> bool:
        """The transport's word."""
        return self._connection.transport.is_closing()

    def close(self) -> None:
        """Not before the client has had the time to read the answer."""
        if not self.is_closing():
            self._connection.linger()
