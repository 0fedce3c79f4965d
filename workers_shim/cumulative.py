"""An answer that comes as its whole text so far, again and again, as LLaVA's and FastChat's code yields it: to deltas.

Pure. Used by `shapes` for functions of the user's, and by the engine `http`.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from workers_shim.request import Chunk, RequestError, Usage
from workers_shim.text_guard import PromptStripper, Shown, TextGuard, find_stop

# FastChat: fastchat/constants.py. Its other codes are the worker's own trouble.
_REQUEST_CODES = frozenset({40001, 40302, 40303})
# LLaVA and FastChat show this for every error; FastChat writes the reason behind it, in brackets.
_NO_REASON = "NETWORK ERROR DUE TO HIGH TRAFFIC"


class EngineFailed(Exception):  # noqa: N818 - named as the failure on the wire is
    """What makes the answer says that it failed. The text is a sentence for the client."""


class Answer(Struct):
    """One object of a stream. All but the text and the code are as the worker wrote them."""

    text: str = ""
    error_code: int = 0
    usage: Any = None
    finish_reason: Any = None
    logprobs: Any = None


def read_answer(data: bytes) -> Answer:
    """Raises: ValueError, for what is no such object."""
    try:
        return msgspec.json.decode(data, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        # Python's writer makes JSON that is none: NaN among logprobs, half a surrogate pair in a text.
        return msgspec.convert(json.loads(data), Answer)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class Deltas:
    """The answer as what to show of it, object by object.

    Attributes:
        stopped: one of our stop strings has come, and nothing more of the answer is wanted.
    """

    def __init__(
        self,
        stripper: PromptStripper | None = None,
        their_stops: Sequence[str] = (),
        our_stops: Sequence[str] = (),
        *,
        begun: int = 0,
    ) -> None:
        """
        Args:
            stripper: takes the prompt off; None where it is left out.
            their_stops: strings that are cut off where they are complete.
            our_stops: strings before which the answer ends.
            begun: characters that the client has from before.
        """
        self.stopped = False
        self._stripper = stripper
        self._our_stops = our_stops
        self._begun = begun
        self._guard = TextGuard((*their_stops, *our_stops))
        self._logprobs = _Logprobs()
        self._answer: Answer | None = None
        self._text = ""

    def feed(self, answer: Answer) -> str | Chunk:
        """What is new; "" where that is nothing yet.

        Raises: EngineFailed, RequestError, for an object that says so.
        """
        if answer.error_code:
            raise _failure(answer)
        self._answer = answer
        before, text = self._text, answer.text if self._stripper is None else self._stripper.answer_of(answer.text)
        stop = find_stop(text, self._our_stops, len(before) if text.startswith(before) else 0)
        if stop is not None:
            text, self.stopped = text[:stop], True
        self._text = text
        shown = self._guard.feed(text)
        return "" if shown is None else self._chunk(shown, answer)

    def finish(self) -> Iterator[str | Chunk]:
        """What was held back; then, in a chunk without text, why the answer ended, and its usage as it was told.

        Raises: EngineFailed, if there was no answer.
        """
        answer = self._answer
        if answer is None:
            raise EngineFailed("the answer ended before it began")
        shown = self._guard.finish()
        if shown is not None:
            yield self._chunk(shown, answer)
        reason = answer.finish_reason if isinstance(answer.finish_reason, str) and not self.stopped else "stop"
        yield Chunk(finish_reason=reason, usage=_usage(answer.usage))

    def _chunk(self, shown: Shown, answer: Answer) -> str | Chunk:
        logprobs = self._logprobs.new(answer.logprobs)
        if shown.replace_from is None and logprobs is None:
            return shown.text
        start = None if shown.replace_from is None else self._begun + shown.replace_from
        return Chunk(shown.text, replace_from=start, logprobs=logprobs)


class _Logprobs:
    """FastChat's logprobs are cumulative lists, too: what is new of them."""

    def __init__(self) -> None:
        self._sent = 0

    def new(self, logprobs: object) -> object:
        if not isinstance(logprobs, dict):
            return logprobs
        lists = [value for value in logprobs.values() if isinstance(value, list)]
        start, self._sent = self._sent, max(map(len, lists), default=0)
        return {key: value[start:] if isinstance(value, list) else value for key, value in logprobs.items()}


def _usage(usage: object) -> Usage | None:
    """Raises nothing: usage that is not understood is none."""
    if not isinstance(usage, dict):
        return None
    prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if isinstance(prompt_tokens, int) and isinstance(completion_tokens, int):
        return Usage(prompt_tokens, completion_tokens)
    return None


def _failure(answer: Answer) -> Exception:
    text = answer.text.strip()
    if _NO_REASON in text:
        _, _, reason = text.partition("\n\n")
        text = reason.strip().removeprefix("(").removesuffix(")") or "an error inside it, of which it gives no reason"
    sentence = f"{text} (error_code {answer.error_code} of the worker)"
    return RequestError(sentence) if answer.error_code in _REQUEST_CODES else EngineFailed(sentence)
