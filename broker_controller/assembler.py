"""Puts the frames of one answer in order: drops what came twice, finds what is missing. Pure.

One per request, used by `lifecycle`. Frames carry numbers; the answer is complete only if every number came once.
"""

from broker_wire.messages import End, Failed, Piece, Texts

FOLD = 256
"""Deltas kept one by one. A short text costs twelve times its length: a long answer is not kept as tokens."""


class Assembler:
    """The answer so far, and the number of the next frame."""

    __slots__ = ("_folded", "_parts", "_plain", "duplicates", "next_seq", "size")

    def __init__(self) -> None:
        self.next_seq = 0
        self.duplicates = 0
        self.size = 0
        """Characters and payload bytes that are kept."""
        self._folded: list[str] = []
        self._parts: list[str] = []
        """Deltas that came after what is folded."""
        self._plain = True

    def accept_texts(self, frame: Texts) -> list[str] | None:
        """The new deltas of a frame, [] when all of it was here before, None when an earlier one is missing."""
        skip = self.next_seq - frame.seq
        texts = frame.texts
        if skip:
            if skip < 0:
                return None
            self.duplicates += min(skip, len(texts))
            texts = texts[skip:]
        self.next_seq += len(texts)
        parts = self._parts
        parts += texts
        if len(parts) > FOLD:
            self._fold()
        self.size += sum(map(len, texts))
        return texts

    def accept(self, frame: Piece | End | Failed) -> bool | None:
        """True for the next frame, False for one that was here before, None when an earlier one is missing."""
        if frame.seq != self.next_seq:
            if frame.seq > self.next_seq:
                return None
            self.duplicates += 1
            return False
        self.next_seq += 1
        if type(frame) is Piece:
            self._keep(frame)
        return True

    @property
    def text(self) -> str:
        """The answer so far."""
        self._fold()
        self._folded = ["".join(self._folded)]
        return self._folded[0]

    @property
    def resumable(self) -> bool:
        """Whether `text` is all there is: one choice, no chunks of a foreign engine."""
        return self._plain

    def _keep(self, piece: Piece) -> None:
        if piece.index or piece.payload is not None:
            self._plain = False
        if piece.replace_from is not None:
            self._folded = [self.text[: piece.replace_from]]
        if piece.text:
            self._parts.append(piece.text)
            if len(self._parts) > FOLD:
                self._fold()
        self.size += len(piece.text) + len(piece.payload or b"")

    def _fold(self) -> None:
        self._folded.append("".join(self._parts))
        self._parts.clear()
