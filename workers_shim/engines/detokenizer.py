"""Turns tokens into text one by one, as they are generated. Pure: it is given the tokenizer's `decode`."""

from collections.abc import Callable, Sequence

_CONTEXT = 6
"""Tokens before a new one that are decoded with it: a tokenizer may decode the first of a text in another way."""
_REPLACEMENT = "\ufffd"
"""What a character becomes of which some bytes are missing: the next token may have them."""
_MAX_PENDING = 8
"""Tokens. A character has four bytes at most: whoever waits for longer waits for bytes that are none."""


class Detokenizer:
    """`before`: the tokens of the prompt, so that the answer goes on from them with the right white space."""

    def __init__(self, decode: Callable[[Sequence[int]], str], before: Sequence[int]) -> None:
        self._decode = decode
        # The first ones are context, and have been shown; the others wait for their character to be complete.
        self._tokens = list(before[-_CONTEXT:])
        self._shown = len(self._tokens)

    def feed(self, token: int) -> str:
        """The text that is complete with this token."""
        self._tokens.append(token)
        text = self._pending()
        if text.endswith(_REPLACEMENT) and len(self._tokens) - self._shown < _MAX_PENDING:
            return ""
        self._tokens = self._tokens[-_CONTEXT:]
        self._shown = len(self._tokens)
        return text

    def rest(self) -> str:
        """What is left when no token follows: characters of which some bytes are missing."""
        text = self._pending()
        self._shown = len(self._tokens)
        return text

    def _pending(self) -> str:
        return self._decode(self._tokens)[len(self._decode(self._tokens[: self._shown])) :]
