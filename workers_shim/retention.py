"""What was sent of one answer and may have to be sent again: kept until the controller has it, bounded in bytes. Pure.

Part of `outgoing`, used on the broker's loop alone. A confirm of the broker says that a frame is in the controller's
queue, not that the controller has read it; so confirmed frames are kept, too, and are the first to go when it is much.
"""

from collections import deque
from enum import Enum, auto

from broker_wire.messages import End, Failed, Payloads, Piece, Texts

Numbered = Texts | Payloads | Piece | End | Failed


class Fate(Enum):
    """What has become of a frame."""

    UNSENT = auto()
    """Not sent yet, or known not to have arrived, or asked for again."""
    IN_FLIGHT = auto()
    CONFIRMED = auto()


class Sent:
    """A frame that is kept."""

    __slots__ = ("fate", "frame", "size")

    def __init__(self, frame: Numbered, size: int) -> None:
        self.frame = frame
        self.size = size
        self.fate = Fate.IN_FLIGHT

    @property
    def end_seq(self) -> int:
        """The number after this frame's last."""
        match self.frame:
            case Texts(seq=seq, texts=chunks) | Payloads(seq=seq, payloads=chunks):
                return seq + len(chunks)
            case frame:
                return frame.seq + 1


class Retention:
    """The kept frames of one stream, in order of their numbers."""

    __slots__ = ("_bound", "_first_seq", "_has_unsent", "_kept", "open", "size")

    def __init__(self, first_seq: int, bound: int) -> None:
        self.open = 0
        """Frames that are not confirmed."""
        self.size = 0
        self._bound = bound
        self._first_seq = first_seq
        self._kept: deque[Sent] = deque()
        self._has_unsent = False

    @property
    def has_unsent(self) -> bool:
        """Whether any frame waits to go out again."""
        return self._has_unsent

    def keep(self, frame: Numbered, size: int) -> Sent:
        """A new frame, which is being sent."""
        sent = Sent(frame, size)
        self._kept.append(sent)
        self.size += size
        self.open += 1
        if self.size > self._bound:
            self.trim_to(self._bound)
        return sent

    def take_unsent(self) -> list[Sent]:
        """The frames to send again, in order."""
        self._has_unsent = False
        unsent = [sent for sent in self._kept if sent.fate is Fate.UNSENT]
        for sent in unsent:
            sent.fate = Fate.IN_FLIGHT
        return unsent

    def confirm(self, sent: Sent) -> None:
        """The broker has this frame, in the controller's queue."""
        if sent.fate is not Fate.CONFIRMED:
            sent.fate = Fate.CONFIRMED
            self.open -= 1
            if self.size > self._bound:
                self.trim_to(self._bound)

    def unsend(self, sent: Sent) -> None:
        """This frame did not arrive, or may not have."""
        if sent.fate is Fate.CONFIRMED:
            self.open += 1
        sent.fate = Fate.UNSENT
        self._has_unsent = True

    def unsend_from(self, seq: int) -> bool:
        """Everything from this number on is asked for again. False: the beginning of it is not kept any more."""
        if seq < self._first_seq:
            return False
        for sent in reversed(self._kept):
            if sent.end_seq <= seq:
                break
            self.unsend(sent)
        return True

    def cut_at(self, sent: Sent) -> None:
        """Forget this frame and all after it."""
        while self._kept and self._kept[-1].frame.seq >= sent.frame.seq:
            cut = self._kept.pop()
            self.size -= cut.size
            self.open -= cut.fate is not Fate.CONFIRMED

    def trim_to(self, size: int) -> None:
        """Let go of confirmed frames, the oldest first, until no more than `size` bytes are kept."""
        while self.size > size and self._kept and self._kept[0].fate is Fate.CONFIRMED:
            sent = self._kept.popleft()
            self.size -= sent.size
            self._first_seq = sent.end_seq

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self._has_unsent = False
        self.size = 0
