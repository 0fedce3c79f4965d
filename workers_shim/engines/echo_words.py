"""The words that the engine `echo` repeats, and their order. Pure."""

from collections.abc import Iterator, Sequence
from itertools import chain, count, cycle
from typing import Any

from broker_wire.messages import Operation
from workers_shim import Request, RequestError

DEFAULT_MAX_TOKENS = 64


def words_of(request: Request) -> list[str]:
    """Those of the last user message of a chat, with a word for each image; or of the prompt.

    Raises: RequestError, where there are none.
    """
    words = _prompt_of(request).split()
    if request.images and request.operation is Operation.CHAT:
        words += map(_describe, request.images)
    if not words:
        raise RequestError("the prompt is empty: there is no word to repeat")
    return words


def repeated(words: Sequence[str]) -> Iterator[str]:
    """The words as tokens, round and round without end. The first token alone has no space before it."""
    return chain(words[:1], cycle([f" {word}" for word in (*words[1:], words[0])]))


def repeated_from(words: Sequence[str], start: int) -> Iterator[str]:
    """The same from another word on, and slower: it keeps no tokens, for there may be many such iterators at once."""
    yield words[start % len(words)]
    for number in count(start + 1):
        yield f" {words[number % len(words)]}"


def _prompt_of(request: Request) -> str:
    """Raises: RequestError."""
    if request.messages is None:
        if request.prompt is None:
            raise RequestError("the prompt has to be one text")
        return request.prompt
    for message in reversed(request.messages):
        if message["role"] == "user":
            return _text_of(message.get("content"))
    raise RequestError("no message has the role 'user'")


def _text_of(content: Any) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return " ".join(text for text in texts if isinstance(text, str))


def _describe(image: str) -> str:
    """What has arrived of it, in one word."""
    head, comma, data = image.partition(",")
    if not image.startswith("data:") or not comma:
        return f"[image:{len(image)}-characters]"
    kind = head.removeprefix("data:").partition(";")[0] or "data"
    # By its length: an image of megabytes is not decoded for a number.
    size = len(data) * 3 // 4 - data[-2:].count("=") if head.endswith(";base64") else len(data)
    return f"[{kind}:{size}-bytes]"
