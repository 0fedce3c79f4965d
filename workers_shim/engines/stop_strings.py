"""Ends a text before the first of some stop strings, however the text is cut into pieces. Pure.

Used by engines whose library works in tokens, whose borders are not those of a stop string.
"""

from collections.abc import Sequence


class StopStrings:
    """Holds back what may be the beginning of a stop string: nobody sees a part of one.

    Attributes:
        found: one has come. Nothing after it is text of the answer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: none of them empty."""
        self._stops = stops
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What can be shown now that `text` has come, too."""
        if self.found:
            return ""
        self._held += text
        ends = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.found = True
            # The one that was complete first, as if the text had come character by character.
            shown, self._held = self._held[: min(ends)[1]], ""
            return shown
        border = min((_begin_in(self._held, stop) for stop in self._stops), default=len(self._held))
        shown, self._held = self._held[:border], self._held[border:]
        return shown

    def rest(self) -> str:
        """What was held back, when nothing follows any more."""
        shown, self._held = self._held, ""
        return shown


def _begin_in(text: str, stop: str) -> int:
    """Where the text's end begins that `stop` begins with, too; the text's length where there is none."""
    at = max(0, len(text) - len(stop) + 1)
    while (at := text.find(stop[0], at)) >= 0:
        if stop.startswith(text[at:]):
            return at
        at += 1
    return len(text)
