"""From the cumulative texts of an old worker to deltas that need not be taken back. Pure; used by `cumulative`.

An old worker sends the whole text again with every token, LLaVA's with the prompt before it even if asked not to. Its
texts also shrink: where a stop string is complete it is cut off, and a character whose bytes come in several tokens
shows as U+FFFD until the last of them is there. What may still go is held back; text that shrinks all the same is
said to be replaced.
"""

from collections.abc import Sequence

from msgspec import Struct

REPLACEMENT = "\ufffd"
# UTF-8: an incomplete character has three bytes at most, and a decoder shows each as one U+FFFD at most.
MAX_INCOMPLETE = 3
# Characters held back for one stop string at most; nobody's are longer, and looking for a beginning costs its square.
MAX_HELD = 256


class Shown(Struct, frozen=True):
    """What to show now: `text` is added, at the end, or from character `replace_from` on in place of what is there."""

    text: str
    replace_from: int | None = None


class PromptStripper:
    """Takes the prompt off texts that begin with it, for one answer."""

    def __init__(self, prompt: str, *, honours_echo: bool) -> None:
        """`honours_echo`: this worker is known to leave the prompt out, so a text that begins like it is the answer."""
        self._prompt = prompt
        self._length = 0
        self._decided = honours_echo or not prompt
        self.leaves_prompt_out = False
        """This answer shows that the worker leaves the prompt out where it is asked to."""

    def answer_of(self, text: str) -> str:
        """The text without the prompt."""
        if not self._decided and text:
            self._decided = True
            if text.startswith(self._prompt):
                self._length = len(self._prompt)
            else:
                # A text that the prompt begins with says nothing: a stop string may have taken the prompt's end.
                self.leaves_prompt_out = not self._prompt.startswith(text)
        elif self._length and not text.startswith(self._prompt[: self._length]):
            # A stop string that began in the prompt was cut off, and a part of the prompt with it.
            self._length = _common_length(text, self._prompt[: self._length])
        return text[self._length :]


class TextGuard:
    """Turns cumulative texts into what to show, for one answer.

    Invariant: what was shown, with its replacements applied, is a beginning of the latest text, and after `finish` all
    of it. It shrinks only where the text did so by something else than a stop string or an incomplete character.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        """`stops`: strings that the worker cuts off when they are complete."""
        self._stops = tuple(stop for stop in stops if stop)
        self._text = ""
        self._shown = 0

    def feed(self, text: str) -> Shown | None:
        """The whole text so far, longer or shorter than before; None when there is nothing to show."""
        return self._show(text, self._safe_length(text))

    def finish(self) -> Shown | None:
        """The last text was the last: what is held back is part of the answer."""
        return self._show(self._text, len(self._text))

    def _show(self, text: str, safe: int) -> Shown | None:
        before, shown = self._text, self._shown
        self._text = text
        # All of the text is compared, not its end only: that costs less than the decoding of the JSON it came in.
        if not text.startswith(before):
            shown = _common_length(text, before[:shown])
        end = max(shown, safe)
        shrank = shown < self._shown
        self._shown = end
        if shrank:
            return Shown(text[shown:end], replace_from=shown)
        return Shown(text[shown:end]) if end > shown else None

    def _safe_length(self, text: str) -> int:
        """Without an incomplete character, nor what may become a stop string, at the end."""
        length = len(text)
        while length and len(text) - length < MAX_INCOMPLETE and text[length - 1] == REPLACEMENT:
            length -= 1
        # Again and again: where "##" was cut off "####", the next token may cut off the other two.
        while held := max((_beginning_at_end(text, length, stop) for stop in self._stops), default=0):
            length -= held
        return length


def find_stop(text: str, stops: Sequence[str], start: int) -> int | None:
    """Where the first of the stop strings begins, None when there is none.

    `start`: the length of an earlier text that had none and that this one goes on from.
    """
    found = (text.find(stop, max(0, start - len(stop) + 1)) for stop in stops if stop)
    return min((position for position in found if position >= 0), default=None)


def _beginning_at_end(text: str, end: int, stop: str) -> int:
    """How many characters before `end` are a beginning of a stop string, or all of it."""
    for length in range(min(len(stop), end, MAX_HELD), 0, -1):
        if text.startswith(stop[:length], end - length, end):
            return length
    return 0


def _common_length(text: str, other: str) -> int:
    """How many characters both begin with."""
    low, high = 0, min(len(text), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if text.startswith(other[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
