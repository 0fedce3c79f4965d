"""What is kept of responses, made of the log's records alone: each controller has the same. Pure.

In `ResponseLog`'s hands; the time is passed in, seconds of Unix, as the records have it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct

from broker_controller.responses.narrator import Event, Narrator
from broker_wire.messages import (
    Begun,
    CancelAsked,
    Created,
    Deleted,
    Ended,
    Left,
    Marker,
    Piece,
    Record,
    Said,
    Sent,
)

CHUNK_OVERHEAD = 64
"""Bytes that a short chunk costs beside its text."""
LATE = 60.0
"""Seconds after its time at which a response without an end has lost whoever ran it."""


class Owner(Struct, frozen=True):
    """Who runs a response: the controller, and the number of its request there."""

    controller: str
    epoch: int
    stream: int | None = None


class Kept:
    """One response."""

    def __init__(self, created: Created) -> None:
        self.created = created
        self.items: list[str | Piece] = []
        self.owner: Owner | None = None
        """Who runs it; None before, and after he has left in order."""
        self.epoch = 0
        self.has_begun = False
        self.cancel_asked = False
        self.ended: Ended | None = None
        self.forgotten = False
        """It was deleted, or its time is up, or its place was needed."""
        self.size = len(created.fields) + len(created.items) + 512
        self.on_change: list[Callable[[], None]] = []

    @property
    def fields(self) -> dict[str, Any]:
        """What was asked."""
        return msgspec.json.decode(self.created.fields, type=dict[str, Any])

    @property
    def over(self) -> bool:
        """Nothing more comes of it."""
        return self.ended is not None or self.forgotten

    def is_run_by(self, controller: str, epoch: int) -> bool:
        """Whether what this controller says in this epoch counts."""
        owner = self.owner
        return not self.over and owner is not None and (owner.controller, owner.epoch) == (controller, epoch)

    def conversation(self) -> list[dict[str, Any]]:
        """The items up to it, and its own."""
        items = msgspec.json.decode(self.created.items, type=list[dict[str, Any]])
        output: list[dict[str, Any]] = Reading(self).response()["output"]
        return items + output

    def apply(self, record: Record, controller: str) -> bool:
        """Whether it changed anything."""
        if self.over:
            return False
        match record:
            case Begun(_, epoch):
                if epoch < self.epoch:
                    return False
                self.epoch, self.owner, self.has_begun = epoch, Owner(controller, epoch), True
            case Sent(_, epoch, stream) if self.is_run_by(controller, epoch):
                self.owner = Owner(controller, epoch, stream)
            case Said(_, epoch, start, items) if self.is_run_by(controller, epoch):
                return self._add(start, items)
            case Left(_, epoch) if self.is_run_by(controller, epoch):
                self.owner = None
            case Ended(_, epoch) if epoch == 0 or self.is_run_by(controller, epoch):
                self.ended = record
            case CancelAsked(_, at):
                self.cancel_asked = True
                if not self.has_begun:
                    self.ended = Ended(record.id, 0, at, "cancelled")
            case _:
                return False
        return True

    def _add(self, start: int, items: list[str | Piece]) -> bool:
        had = len(self.items)
        if start > had:
            # The log lost what came before: it cannot be told as it was.
            self.forgotten = True
            return True
        news = items[had - start :]
        self.items += news
        self.size += sum(map(_size, news))
        return bool(news)


class Reading:
    """Reads the events of one response, from the first one on; there may be any number of readers."""

    def __init__(self, kept: Kept) -> None:
        created = kept.created
        self._kept = kept
        self._narrator = Narrator(created.id, created.at, kept.fields)
        self._events_before: list[Event] = self._narrator.created()
        self._told = 0

    @property
    def over(self) -> bool:
        """All events were read."""
        return self._narrator.over and not self._events_before

    def news(self) -> list[Event]:
        """The events that came since the last time."""
        events, self._events_before = self._events_before, []
        kept, narrator = self._kept, self._narrator
        if narrator.over:
            return events
        if kept.has_begun:
            events += narrator.begun()
        if self._told < len(kept.items):
            events += narrator.tell(kept.items[self._told :])
            self._told = len(kept.items)
        ended = kept.ended
        if ended is not None:
            if ended.end is not None:
                events += narrator.tell([ended.end])
            else:
                events += narrator.end_as(ended.status, ended.code, ended.message)
        return events

    def response(self) -> dict[str, Any]:
        """The response as it is now."""
        self.news()
        return self._narrator.snapshot()


class Shelf:
    """All of them, bounded in bytes; those that are over go after their time, or earlier for want of room."""

    def __init__(self, *, ttl: float, max_bytes: int) -> None:
        """`ttl`: seconds for which one is kept from its end on."""
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._unfinished: dict[str, Kept] = {}
        self._over: dict[str, Kept] = {}
        """In the order of their ends."""
        self.size = 0

    def get(self, response_id: str) -> Kept | None:
        """None for one that is not kept (any more)."""
        return self._unfinished.get(response_id) or self._over.get(response_id)

    def __len__(self) -> int:
        return len(self._unfinished) + len(self._over)

    def unfinished(self) -> list[Kept]:
        """Those without an end."""
        return list(self._unfinished.values())

    @property
    def full(self) -> bool:
        """Nothing may be added, although all that is over was dropped."""
        return self.size > self._max_bytes

    def apply(self, records: Iterable[Record], controller: str, now: float) -> None:
        """What a controller wrote to the log."""
        for record in records:
            if isinstance(record, Created):
                if self.get(record.id) is None and record.at + record.within + LATE + self._ttl > now:
                    kept = self._unfinished[record.id] = Kept(record)
                    self.size += kept.size
            elif not isinstance(record, Marker):
                self._apply_one(record, controller, now)
        while self.full and self._over:
            self._forget(next(iter(self._over.values())))

    def sweep(self, now: float) -> list[Kept]:
        """Drop what has had its time. Returns those that should be over, and have no end."""
        while self._over:
            first = next(iter(self._over.values()))
            if not self._is_past(first, now):
                break
            self._forget(first)
        return [kept for kept in self._unfinished.values() if now >= kept.created.at + kept.created.within + LATE]

    def _apply_one(
        self, record: Begun | Sent | Said | Ended | Left | CancelAsked | Deleted, controller: str, now: float
    ) -> None:
        kept = self.get(record.id)
        if kept is None:
            return
        if isinstance(record, Deleted):
            self._forget(kept)
            return
        before = kept.size
        if not kept.apply(record, controller):
            return
        self.size += kept.size - before
        if kept.forgotten or self._is_past(kept, now):
            self._forget(kept)
            return
        if kept.ended is not None:
            self._over[record.id] = self._unfinished.pop(record.id)
        _tell(kept)

    def _is_past(self, kept: Kept, now: float) -> bool:
        return kept.ended is not None and now >= kept.ended.at + self._ttl

    def _forget(self, kept: Kept) -> None:
        response_id = kept.created.id
        if self._unfinished.pop(response_id, None) or self._over.pop(response_id, None):
            self.size -= kept.size
        kept.forgotten = True
        _tell(kept)


def _tell(kept: Kept) -> None:
    for tell in list(kept.on_change):
        tell()


def _size(item: str | Piece) -> int:
    if isinstance(item, str):
        return len(item) + CHUNK_OVERHEAD
    return len(item.text) + len(item.payload or b"") + len(item.logprobs or b"") + 4 * CHUNK_OVERHEAD
