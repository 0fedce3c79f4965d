"""A streamed response that is kept while its client reads it: each write to the client is a record, too.

Made by `keeper` for each; what cannot be kept any more is forgotten, and its client has it all the same.
"""

import logging
import time
from collections.abc import Sequence

from broker_controller.errors import BrokerUnavailableError, ServiceError
from broker_controller.responses.log import ResponseLog
from broker_controller.responses.records import last_of, size_of
from broker_wire.messages import Begun, Created, Deleted, End, Piece, Record, Said

_log = logging.getLogger(__name__)

KEEP_TIMEOUT = 2.0
"""Seconds that the end of an answer waits until it is kept."""


class Live:
    """Of one response."""

    def __init__(self, log: ResponseLog, created: Created, max_bytes: int) -> None:
        self._log = log
        self._created = created
        self._max_bytes = max_bytes
        self._said = 0
        self._size = 0
        self._begun = False
        self._over = False

    def say(self, items: Sequence[str | Piece]) -> None:
        """Chunks that the client is about to get."""
        if items and not self._over:
            self._note([*self._beginning(), Said(self._created.id, 1, self._said, list(items))])
            self._said += len(items)

    async def end(self, end: End | ServiceError) -> None:
        """It is complete, or has failed. It waits until that is kept, but not for long.

        So whoever goes on with it at another controller finds it.
        """
        if self._over:
            return
        records = [*self._beginning(), self._last(end)]
        self._over = True
        try:
            await self._log.kept(*records, timeout=KEEP_TIMEOUT)
        except BrokerUnavailableError as error:
            _log.warning("not kept response=%s reason=%s", self._created.id, error)

    def left(self) -> None:
        """Its client left, unless it is over."""
        if self._begun and not self._over:
            self._note([self._last(None)])
            self._over = True

    def _beginning(self) -> list[Record]:
        return [] if self._begun else [self._created, Begun(self._created.id, 1)]

    def _last(self, end: End | ServiceError | None) -> Record:
        return last_of(self._created.id, end, time.time())

    def _note(self, records: Sequence[Record]) -> None:
        sizes = [size_of(record) for record in records]
        self._size += sum(sizes)
        if self._size > self._max_bytes or self._log.congested:
            self._give_up()
            return
        self._begun = True
        self._log.join()
        for record, size in zip(records, sizes, strict=True):
            self._log.note(record, size)

    def _give_up(self) -> None:
        self._over = True
        _log.warning("not kept, it is too large or the broker is behind response=%s", self._created.id)
        if self._begun:
            self._log.note(Deleted(self._created.id))
