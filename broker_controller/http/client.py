"""Who asks on one connection, as the request sees it that is answered there.

Made by `connection`, which puts it into the scope's state: a task that waits for ASGI's `http.disconnect` costs more
than a chunk. Used by `call` and `streaming`.
"""

import asyncio
from collections.abc import Callable


class Client:
    """One client. Requests of a connection are answered one after the other, so this is of one request at a time.

    Attributes:
        loop: its connection's.
        on_left: called once, when the connection is lost.
        left: it is lost.
        sent_all: the request that came last is here in whole.
        read_until: the time (seconds, monotonic) until which the stream that is written has to be read; None where
            none is.
    """

    __slots__ = ("left", "loop", "on_left", "read_until", "sent_all")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.on_left: Callable[[], None] | None = None
        self.left = False
        self.sent_all = False
        self.read_until: float | None = None

    def leave(self) -> None:
        """The connection is lost."""
        self.left = True
        told, self.on_left = self.on_left, None
        if told is not None:
            told()
