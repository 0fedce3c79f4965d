"""Generate again and skip: drops what the client already has from an answer that is being repeated. Pure.

Used by `run` through `resumption`. Of each choice the text is compared, not its chunks, for the repetition may be cut
differently; chunks of a foreign engine are compared one by one, by their digest. At the first difference the stream
ends as an error, for the client cannot unread.
"""

from collections.abc import Sequence

import msgspec

from broker_wire.messages import Had
from broker_wire.repetition import Digest, read_payload
from workers_shim.request import Chunk


class Diverged(Exception):  # noqa: N818 - named as the failure on the wire is
    """The repeated answer differs from what the client has."""


class Replay:
    """Between the engine and the stream, until everything that the client has was seen again.

    Args:
        text: of choice 0.
        choices: what else the client has.
    """

    __slots__ = ("_known",)

    def __init__(self, text: str, choices: Sequence[Had] = ()) -> None:
        self._known = {had.index: _Known(had.text, had) for had in choices}
        if text or 0 in self._known:
            had = next((had for had in choices if had.index == 0), Had(0))
            self._known[0] = _Known(text, had)

    @property
    def complete(self) -> bool:
        """Whatever comes from now on is new."""
        return all(known.complete for known in self._known.values())

    def rest_of(self, item: str | Chunk) -> str | Chunk | None:
        """What is new of this chunk, None if nothing is.

        Raises: Diverged.
        """
        if isinstance(item, str):
            known = self._known.get(0)
            return item if known is None else known.rest_of_text(item) or None
        if item.replace_from is not None:
            raise Diverged("the repeated answer takes text back, which cannot be compared with what was sent")
        if item.payload is not None:
            return self._rest_of_payload(item, item.payload)
        known = self._known.get(item.index)
        return item if known is None else known.rest_of_chunk(item)

    def finish(self) -> None:
        """The engine has ended.

        Raises: Diverged, if the client has more than that.
        """
        for known in self._known.values():
            if not known.complete:
                raise Diverged(f"the repeated answer ended after {known.seen}, the client has {known.size}")

    def _rest_of_payload(self, item: Chunk, payload: bytes) -> Chunk | None:
        index, comparable = read_payload(payload)
        known = self._known.get(index)
        if known is None or known.is_new_payload(comparable):
            return item
        if item.usage is None and item.finish_reason is None:
            return None
        return Chunk(finish_reason=item.finish_reason, usage=item.usage)


class _Known:
    """One choice that the client has a part of."""

    __slots__ = ("_digest", "_ended", "_had", "_measured", "_position", "_text")

    def __init__(self, text: str, had: Had) -> None:
        self._text = text
        self._had = had
        self._position = 0
        self._measured = 0
        self._digest = Digest()
        self._ended = False

    @property
    def complete(self) -> bool:
        had = self._had
        return (
            self._position == len(self._text)
            and self._digest.chunks >= had.chunks
            and self._measured >= had.measured
            and self._ended >= had.ended
        )

    @property
    def seen(self) -> str:
        return _amount(self._position, self._digest.chunks)

    @property
    def size(self) -> str:
        return _amount(len(self._text), self._had.chunks)

    def rest_of_text(self, text: str) -> str:
        known = self._text[self._position : self._position + len(text)]
        if not text.startswith(known):
            same = next(i for i, (a, b) in enumerate(zip(text, known, strict=False)) if a != b)
            raise Diverged(f"the repeated answer differs from the first after {self._position + same} characters")
        self._position += len(known)
        rest = text[len(known) :]
        if rest and self._had.ended and not self._ended:
            raise Diverged(f"the repeated answer goes on after {self._position} characters, where the first ended")
        return rest

    def rest_of_chunk(self, item: Chunk) -> Chunk | None:
        rest = self.rest_of_text(item.text)
        logprobs, finish_reason = item.logprobs, item.finish_reason
        if logprobs is not None:
            if self._measured < self._had.measured or (item.text and not rest):
                logprobs = None
            self._measured += 1
        if finish_reason is not None:
            if item.index and self._had.ended and not self._ended:
                finish_reason = None
            self._ended = True
        if rest or logprobs is not None:
            return msgspec.structs.replace(item, text=rest, logprobs=logprobs, finish_reason=finish_reason)
        # Token counts and the reason of the end belong to the repetition, too.
        if item.usage is None and finish_reason is None:
            return None
        return Chunk(finish_reason=finish_reason, usage=item.usage, index=item.index if finish_reason else 0)

    def is_new_payload(self, comparable: bytes) -> bool:
        had = self._had
        if self._digest.chunks >= had.chunks:
            if self._position < len(self._text):
                raise Diverged(f"the repeated answer differs from the first after {self.seen}")
            return True
        self._digest.add(comparable)
        if self._digest.chunks == had.chunks and self._digest.value != had.digest:
            raise Diverged(f"the repeated answer differs from the first within {self.size}")
        return False


def _amount(characters: int, chunks: int) -> str:
    return f"{characters} characters and {chunks} chunks" if chunks else f"{characters} characters"
