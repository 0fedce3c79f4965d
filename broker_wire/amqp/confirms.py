"""Publisher confirms as bookkeeping: delivery tags in, exactly one outcome a publish out. Pure.

The broker numbers the publishes of a channel from 1. It answers each with an ack or a nack, several at once with
`multiple`, in any order. A message that no queue took comes back as basic.return first and is then acked like any
other, so a return is remembered until its ack. The channel calls this and runs the callbacks.
"""

from collections.abc import Callable
from enum import Enum


class Outcome(Enum):
    """What became of a publish."""

    CONFIRMED = "confirmed"
    """It is in every queue that it was routed to."""
    RETURNED = "returned"
    """It was mandatory and no queue is bound for its routing key."""
    NACKED = "nacked"
    """A queue refused it: it is full."""
    LOST = "lost"
    """The channel or connection went before the broker's answer: it may have arrived or not."""


OnOutcome = Callable[[Outcome], None]
Settled = list[tuple[OnOutcome, Outcome]]


class Confirms:
    """The publishes of one channel that the broker has not answered yet."""

    def __init__(self) -> None:
        self.unconfirmed_bytes = 0
        self.next_tag = 1
        # In order of their tags, so that `multiple` takes from the front.
        self._pending: dict[int, tuple[int, OnOutcome | None]] = {}
        self._returned: set[int] = set()

    def __len__(self) -> int:
        return len(self._pending)

    def published(self, size: int, on_outcome: OnOutcome | None) -> None:
        """Count a publish of `size` bytes; the broker gives it the number `next_tag`."""
        self._pending[self.next_tag] = (size, on_outcome)
        self.next_tag += 1
        self.unconfirmed_bytes += size

    def returned(self, tag: int) -> None:
        """The broker sent this one back; its ack will follow."""
        if tag in self._pending:
            self._returned.add(tag)

    def acked(self, tag: int, multiple: bool) -> Settled:
        """The outcomes that an ack settles."""
        return self._settle(tag, multiple, Outcome.CONFIRMED)

    def nacked(self, tag: int, multiple: bool) -> Settled:
        """The outcomes that a nack settles."""
        return self._settle(tag, multiple, Outcome.NACKED)

    def lost(self) -> Settled:
        """Nothing will be answered any more."""
        settled = [
            (on_outcome, Outcome.RETURNED if tag in self._returned else Outcome.LOST)
            for tag, (_, on_outcome) in self._pending.items()
            if on_outcome is not None
        ]
        self._pending.clear()
        self._returned.clear()
        self.unconfirmed_bytes = 0
        return settled

    def _settle(self, tag: int, multiple: bool, outcome: Outcome) -> Settled:
        settled: Settled = []
        if multiple:
            # Tag 0 with `multiple` means all of them.
            while self._pending:
                first = next(iter(self._pending))
                if tag and first > tag:
                    break
                self._settle_one(first, outcome, settled)
        elif tag in self._pending:
            self._settle_one(tag, outcome, settled)
        return settled

    def _settle_one(self, tag: int, outcome: Outcome, settled: Settled) -> None:
        size, on_outcome = self._pending.pop(tag)
        self.unconfirmed_bytes -= size
        if tag in self._returned:
            self._returned.discard(tag)
            outcome = Outcome.RETURNED
        if on_outcome is not None:
            settled.append((on_outcome, outcome))
