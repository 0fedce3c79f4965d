"""Gives up a client that does not read what was written for it. A transport itself waits for that without a bound.

One a connection, made by `connection`. It looks now and then at what is unsent: a chunk that is written costs nothing.
"""

import asyncio
import logging
from collections.abc import Callable

_log = logging.getLogger(__name__)

CLOSED_WITHIN = 30.0
"""Seconds after a connection was closed on our side in which the rest of its answer can be read."""
READ_WITHIN = 60.0
"""Seconds in which a client has to read some of what is written for it, if nothing more is added meanwhile."""
LOOK_INTERVAL = 5.0
"""Seconds between two looks: so much later than these bounds it may be."""


class UnsentWatch:
    """Aborts a transport whose client does not read."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, streams: Callable[[], bool]
    ) -> None:
        """`streams`: whether the unsent bytes are those of a stream, which has a deadline of its own."""
        self._loop = loop
        self._transport = transport
        self._streams = streams
        self._left = 0
        self._closing = False
        self._since = loop.time()
        """When something was read, the connection was closed, or nothing was to be read."""
        self._timer = loop.call_later(LOOK_INTERVAL, self._look)

    def end(self) -> None:
        """The connection is lost."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        left, closing = self._transport.get_write_buffer_size(), self._transport.is_closing()
        reads = not closing and (left == 0 or left < self._left or self._streams())
        if reads or closing is not self._closing:
            self._since = now
        self._left, self._closing = left, closing
        if now - self._since >= (CLOSED_WITHIN if closing else READ_WITHIN):
            _log.warning("connection given up, its client does not read unsent=%d", left)
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(LOOK_INTERVAL, self._look)
