"""Puts the frames of one answer in order: drops what came twice, finds what is missing. Pure.

One per request, used by `lifecycle`. Frames carry numbers; the answer is complete only if every number came once.
"""

from collections import defaultdict
from collections.abc import Iterable

from msgspec import structs

from broker_wire.messages import End, Failed, Had, Payloads, Piece, Texts
from broker_wire.repetition import Digest, read_payload

FOLD = 256
"""Deltas kept one by one. A short text costs twelve times its length: a long answer is not kept as tokens."""

MAX_REPEATED = 2 * 1024 * 1024
"""Characters and bytes. An answer above it is not gone on with elsewhere: `go` carries its text, four bytes a character
at worst, in a message of 16 MiB at most, and a worker would be long at repeating it."""


class _Choice:
    """What is kept of one choice besides the text of choice 0."""

    __slots__ = ("ended", "measured", "parts")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.measured = 0
        self.ended = False


class Assembler:
    """The answer so far, and the number of the next frame."""

    __slots__ = ("_choices", "_folded", "_parts", "_payloads", "duplicates", "next_seq", "size")

    def __init__(self) -> None:
        self.next_seq = 0
        self.duplicates = 0
        self.size = 0
        """Characters and payload bytes that are kept."""
        self._folded: list[str] = []
        self._parts: list[str] = []
        """Deltas that came after what is folded."""
        self._choices: defaultdict[int, _Choice] = defaultdict(_Choice)
        self._payloads: list[bytes] = []

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

    def accept_payloads(self, frame: Payloads) -> list[Payloads] | None:
        """A frame of what is new, [] when all of it was here before, None when an earlier one is missing."""
        skip = self.next_seq - frame.seq
        if skip:
            if skip < 0:
                return None
            self.duplicates += min(skip, len(frame.payloads))
            frame = structs.replace(frame, seq=self.next_seq, payloads=frame.payloads[skip:])
        payloads = frame.payloads
        self.next_seq += len(payloads)
        self.size += sum(map(len, payloads))
        self._keep_payloads(payloads)
        return [frame] if payloads else []

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

    def preload(self, items: Iterable[str | Piece]) -> None:
        """What came at another controller, which is gone: the next frame goes on after it."""
        for item in items:
            if isinstance(item, str):
                self.accept_texts(Texts(0, 0, self.next_seq, [item]))
            else:
                self.accept(structs.replace(item, seq=self.next_seq))

    @property
    def text(self) -> str:
        """The answer so far: of choice 0, less what foreign chunks say."""
        self._fold()
        self._folded = ["".join(self._folded)]
        return self._folded[0]

    @property
    def resumable(self) -> bool:
        """Whether it is short enough to be told to another worker."""
        return self.size <= MAX_REPEATED

    @property
    def choices(self) -> tuple[Had, ...]:
        """What the client has that is more than `text`. Payloads are read here, for a move, and not as they come."""
        digests: defaultdict[int, Digest] = defaultdict(Digest)
        for payload in self._payloads:
            index, comparable = read_payload(payload)
            digests[index].add(comparable)
        found = []
        for index in sorted(self._choices.keys() | digests.keys()):
            choice, digest = self._choices.get(index) or _Choice(), digests.get(index)
            chunks, value = (digest.chunks, digest.value) if digest else (0, b"")
            found.append(Had(index, "".join(choice.parts), choice.measured, chunks, value, choice.ended))
        return tuple(found)

    def _keep(self, piece: Piece) -> None:
        self.size += len(piece.text) + len(piece.payload or b"")
        if piece.payload is not None:
            self._keep_payloads((piece.payload,))
            return
        if piece.index or piece.logprobs is not None or piece.finish_reason is not None:
            choice = self._choices[piece.index]
            choice.measured += piece.logprobs is not None
            choice.ended |= piece.finish_reason is not None
        if piece.index:
            if piece.replace_from is not None:
                choice.parts = ["".join(choice.parts)[: piece.replace_from]]
            choice.parts.append(piece.text)
            return
        if piece.replace_from is not None:
            self._folded = [self.text[: piece.replace_from]]
        if piece.text:
            self._parts.append(piece.text)
            if len(self._parts) > FOLD:
                self._fold()

    def _keep_payloads(self, payloads: Iterable[bytes]) -> None:
        if self.resumable:
            self._payloads += payloads
        else:
            self._payloads.clear()

    def _fold(self) -> None:
        self._folded.append("".join(self._parts))
        self._parts.clear()
