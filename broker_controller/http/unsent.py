"""Gives up a client that does not read what was written for it. A transport itself waits for that without a bound.

One a connection, made by `connection`, which has it look now and then: a chunk that is written costs nothing.
"""

import asyncio
import logging

from broker_controller.http.client import Client

_log = logging.getLogger(__name__)

CLOSED_WITHIN = 30.0
"""Seconds after a connection was closed on our side in which the rest of its answer can be read."""
READ_WITHIN = 60.0
"""Seconds in which a client has to read some of what is written for it, if nothing more is added meanwhile."""


class UnsentWatch:
    """Aborts a transport whose client does not read."""

    __slots__ = ("_client", "_closing", "_left", "_since", "_transport")

    def __init__(self, transport: asyncio.Transport, client: Client, now: float) -> None:
        self._transport = transport
        self._client = client
        self._left = 0
        self._closing = False
        self._since = now
        """When something was read, the connection was closed, or nothing was to be read."""

    def look(self, now: float) -> None:
        """See what was read since the last look. What is unsent of a stream has the stream's deadline."""
        left, closing = self._transport.get_write_buffer_size(), self._transport.is_closing()
        read_until = self._client.read_until
        if read_until is not None and not closing:
            late = now > read_until
            self._since = now
        else:
            reads = not closing and (left == 0 or left < self._left)
            if reads or closing is not self._closing:
                self._since = now
            late = now - self._since >= (CLOSED_WITHIN if closing else READ_WITHIN)
        self._left, self._closing = left, closing
        if late:
            _log.warning("connection given up, its client does not read unsent=%d", left)
            self._transport.abort()
