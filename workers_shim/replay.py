"""Generate again and skip: drops what the client already has from an answer that is being repeated. Pure.

Used by `execution` for models with resume="replay". The chunks of the repetition may be cut differently, so text is
compared, not chunks; at the first difference the stream ends as an error, for the client cannot unread.
"""

import msgspec

from workers_shim.request import Chunk


class Diverged(Exception):  # noqa: N818 - named as the failure on the wire is
    """The repeated answer differs from what the client has."""


class Replay:
    """Between the engine and the stream, until everything that the client has was seen again."""

    __slots__ = ("_position", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    @property
    def complete(self) -> bool:
        """Whatever comes from now on is new."""
        return self._position == len(self._text)

    def rest_of(self, item: str | Chunk) -> str | Chunk | None:
        """What is new of this chunk, None if nothing is.

        Raises: Diverged.
        """
        if isinstance(item, str):
            return self._rest_of_text(item) or None
        if item.index or item.payload is not None or item.replace_from is not None:
            raise Diverged("the repeated answer has chunks that cannot be compared with the text that was sent")
        if not item.text:
            # Token counts and the reason of the end belong to the repetition, too.
            return Chunk(finish_reason=item.finish_reason, usage=item.usage)
        rest = self._rest_of_text(item.text)
        return msgspec.structs.replace(item, text=rest, logprobs=item.logprobs if rest else None)

    def finish(self) -> None:
        """The engine has ended.

        Raises: Diverged, if the client has more than that.
        """
        if not self.complete:
            raise Diverged(
                f"the repeated answer ended after {self._position} characters, the client has {len(self._text)}"
            )

    def _rest_of_text(self, text: str) -> str:
        known = self._text[self._position : self._position + len(text)]
        if not text.startswith(known):
            same = next(i for i, (a, b) in enumerate(zip(text, known, strict=False)) if a != b)
            raise Diverged(f"the repeated answer differs from the first after {self._position + same} characters")
        self._position += len(known)
        return text[len(known) :]
