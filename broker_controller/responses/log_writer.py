"""Writes records to the log of responses: those of a moment in one message, in order, until the broker has them.

Used by `log`, which reads them.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from broker_controller.links import Links
from broker_wire.amqp.channel import Outcome
from broker_wire.errors import MessageTooLargeError, NotConnectedError
from broker_wire.messages import Record, Records

_log = logging.getLogger(__name__)

FLUSH_INTERVAL = 0.01
"""Seconds between two messages, however many chunks come: the first of a rush goes at once."""
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Of one message, about; a single record may be larger."""
BEHIND = 5_000
"""Records that wait, above which whoever can hold back should."""


class _Entry(Struct, eq=False):
    """A record on its way; `done` is called when the broker has it."""

    record: Record
    size: int
    done: Callable[[], None] | None


class LogWriter:
    """Of one controller process."""

    def __init__(
        self, controller_id: str, links: Links, *, may_write: Callable[[], bool], on_returned: Callable[[], None]
    ) -> None:
        """
        Args:
            may_write: whether the log is there; whoever opens it calls `schedule`.
            on_returned: it is not there any more.
        """
        self._controller_id = controller_id
        self._links = links
        self._may_write = may_write
        self._on_returned = on_returned
        self._waiting: deque[_Entry] = deque()
        self._lost: list[_Entry] = []
        """What a lost connection took with it: written before what waits."""
        self._timer: asyncio.TimerHandle | None = None
        self._flushed_at = 0.0
        links.on_both_up.append(self.schedule)

    @property
    def behind(self) -> bool:
        """More waits than should."""
        return len(self._waiting) + len(self._lost) > BEHIND

    def add(self, record: Record, size: int, done: Callable[[], None] | None) -> None:
        """Write it soon. What is written twice counts once: `done` may be called late, but not too early."""
        self._waiting.append(_Entry(record, size, done))
        self.schedule()

    def schedule(self) -> None:
        """Write what waits, if the log is there."""
        if (self._waiting or self._lost) and self._timer is None and self._may_write():
            loop = asyncio.get_running_loop()
            wait = max(0.0, self._flushed_at + FLUSH_INTERVAL - loop.time())
            self._timer = loop.call_later(wait, self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._flushed_at = asyncio.get_running_loop().time()
        self._waiting.extendleft(reversed(self._lost))
        self._lost.clear()
        while self._waiting:
            entries = [self._waiting.popleft()]
            size = entries[0].size
            while self._waiting and size + self._waiting[0].size <= MAX_MESSAGE_BYTES:
                size += self._waiting[0].size
                entries.append(self._waiting.popleft())
            if not self._publish(entries):
                return

    def _publish(self, entries: list[_Entry]) -> bool:
        message = Records(self._controller_id, [entry.record for entry in entries])
        key = self._links.topology.log_key
        try:
            self._links.send_kept(key, message, lambda outcome: self._on_outcome(entries, outcome))
        except NotConnectedError:
            # On the reconnect it is scheduled again.
            self._waiting.extendleft(reversed(entries))
            return False
        except MessageTooLargeError as error:
            _log.error("not kept, too large reason=%s", error)
        return True

    def _on_outcome(self, entries: list[_Entry], outcome: Outcome) -> None:
        if outcome is Outcome.CONFIRMED:
            for entry in entries:
                if entry.done is not None:
                    entry.done()
            return
        self._lost += entries
        if outcome is Outcome.RETURNED:
            self._on_returned()
        elif outcome is Outcome.NACKED:
            self.schedule()
