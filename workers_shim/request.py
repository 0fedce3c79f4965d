"""What an engine sees of one request, and what it may yield.

Part of the public API, together with `worker`. The body is read here by the protocol that it belongs to
(`Operation`); it knows neither the broker nor threads.
"""

import hashlib
import math
import time
from typing import Any, Protocol

import msgspec

from broker_wire.messages import Generate, Operation, Usage

__all__ = ["Cancelled", "Chunk", "Lost", "Request", "RequestError", "Unavailable", "Usage", "parse_request"]

LLAVA_MAX_NEW_TOKENS = 256
"""LLaVA's model worker: `int(params.get("max_new_tokens", 256))`."""


MAX_TOKENS = 2**31 - 1
"""More than any context holds, and as much as engines written in C can count."""


class Cancelled(Exception):  # noqa: N818 - it is no error: the client left, or the deadline passed
    """Nobody wants the rest of this answer. Let it pass through, after cleaning up."""


class RequestError(Exception):
    """The request's own fault, as a sentence for the client. No other worker is tried."""


class Unavailable(Exception):  # noqa: N818 - a state of what is behind the engine, not a failure of the request
    """What runs the model cannot be reached from here, and runs nothing of the request: another worker may take it."""


class Lost(Exception):  # noqa: N818 - a state, as `Unavailable`
    """What runs the model died in the middle of the answer: another worker may go on, until several have died so."""


class Chunk(msgspec.Struct, frozen=True):
    """A step of an answer that is more than a plain delta.

    Attributes:
        text: the delta, "" where there is none.
        finish_reason: why the answer ended, "stop" or "length" for most; on the last chunk.
        usage: token counts; the last one counts.
        payload: a chunk of an OpenAI-compatible engine as it came, or the JSON of a whole answer that has no text.
        logprobs: JSON for the tokens of this chunk: bytes as they came, or anything that JSON can hold.
        index: which of the `n` choices.
        replace_from: everything from this character of the answer on is replaced by `text`.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    payload: bytes | None = None
    logprobs: Any = None
    index: int = 0
    replace_from: int | None = None


class Link(Protocol):
    """What a request needs of whatever carries its answer away."""

    @property
    def cancelled(self) -> bool:
        """Nobody wants the rest."""

    def progress(self) -> None:
        """The engine works."""


class Request(msgspec.Struct, kw_only=True, eq=False):
    """One generation to run.

    Attributes:
        model: the name that the client asked for.
        operation: which HTTP protocol the request came by.
        messages: a chat's messages, as the client sent them; None for the other operations.
        prompt: the text to complete or to embed. None for a chat, and where the client sent a list of several texts
            or of token numbers: that list is then in `parameters` ("prompt" or "input").
        images: URLs, data URLs or base64, from `images` and from the messages' `image_url` parts.
        parameters: everything else that the client sent.
        max_tokens: tokens to generate at most; None lets the engine choose.
        temperature, top_p, seed: None lets the engine choose.
        default_seed: a seed for this choice, of 31 bits: requests differ in it, the attempts at one request do not.
        stop: end before any of these; no empty ones.
        stream: whether the client reads the answer as it comes. The engine yields it as it comes in any case.
        deadline: on this process's monotonic clock, in seconds.
        request_id: the client's `X-Request-Id`, for logs.
        resume_text: only with resume="prefix": the client has this much of the answer; yield what follows it.
        raw: the client's JSON, untouched.
        suspect: workers have died while they ran this request.
    """

    model: str
    operation: Operation = Operation.COMPLETION
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    images: list[str] = []
    parameters: dict[str, Any] = {}
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] = []
    seed: int | None = None
    default_seed: int = 0
    stream: bool = True
    deadline: float = math.inf
    request_id: str = ""
    resume_text: str = ""
    raw: bytes = b""
    suspect: bool = False
    link: Link | None = None

    @property
    def cancelled(self) -> bool:
        """True once nobody wants the rest: stop soon. Cheap enough to ask for every token."""
        return (self.link is not None and self.link.cancelled) or time.monotonic() >= self.deadline

    def raise_if_cancelled(self) -> None:
        """Raises: Cancelled."""
        if self.cancelled:
            raise Cancelled

    def remaining(self) -> float:
        """Seconds until the deadline, never below 0."""
        return max(0.0, self.deadline - time.monotonic())

    def progress(self) -> None:
        """Say that the engine works although it has nothing to show, so that it is not taken for stalled."""
        if self.link is not None:
            self.link.progress()


def parse_request(generate: Generate, *, deadline: float, suspect: bool, link: Link) -> Request:
    """Read the client's body.

    Raises: RequestError, with a sentence that names the field.
    """
    try:
        body = msgspec.json.decode(generate.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(f"the body has to be a JSON object, not {_kind(body)}")
    fields = _Fields(body, lenient=generate.operation is Operation.LLAVA)
    body.pop("model", None)
    images = fields.texts("images")
    messages = fields.messages() if generate.operation is Operation.CHAT else None
    if messages:
        images += _images_of(messages)
    return Request(
        model=generate.model,
        operation=generate.operation,
        messages=messages,
        prompt=_prompt(fields, generate.operation),
        images=images,
        max_tokens=_max_tokens(fields, generate.operation),
        temperature=fields.number("temperature", low=0.0),
        top_p=fields.number("top_p", low=0.0, high=1.0),
        stop=[text for text in fields.texts("stop") if text],
        seed=fields.whole("seed"),
        default_seed=_default_seed(generate),
        stream=fields.flag("stream", default=generate.operation is Operation.LLAVA),
        parameters=body,
        deadline=deadline,
        request_id=generate.request_id,
        raw=generate.body,
        suspect=suspect,
        link=link,
    )


def _default_seed(generate: Generate) -> int:
    """From what is the request's own, so that every worker finds the same: a controller's id is drawn by chance."""
    name = f"{generate.controller} {generate.stream}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=4).digest()) >> 1


def _prompt(fields: "_Fields", operation: Operation) -> str | None:
    if operation is Operation.CHAT:
        return None
    name = "input" if operation is Operation.EMBEDDING else "prompt"
    value = fields.body.get(name)
    if isinstance(value, str):
        del fields.body[name]
        return value
    if value is None:
        raise RequestError(f"{name!r} is missing: it is the text to work on")
    if isinstance(value, list) and operation is not Operation.LLAVA:
        if len(value) == 1 and isinstance(value[0], str):
            del fields.body[name]
            return value[0]
        if value:
            return None
    raise RequestError(f"{name!r} has to be a text, not {_kind(value)}")


def _max_tokens(fields: "_Fields", operation: Operation) -> int | None:
    if operation is Operation.LLAVA:
        value = fields.whole("max_new_tokens", low=0)
        return LLAVA_MAX_NEW_TOKENS if value is None else min(value, MAX_TOKENS)
    old = fields.whole("max_tokens", low=0)
    # OpenAI deprecated `max_tokens` for chats in favour of this one, and clients send either or both.
    new = fields.whole("max_completion_tokens", low=0)
    value = old if new is None else new
    return None if value is None else min(value, MAX_TOKENS)


def _images_of(messages: list[dict[str, Any]]) -> list[str]:
    found = []
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            image = part.get("image_url") if isinstance(part, dict) else None
            url = image.get("url") if isinstance(image, dict) else image
            if isinstance(url, str):
                found.append(url)
    return found


class _Fields:
    """Takes known fields out of a body, and says in words what is wrong with one.

    `lenient` reads a number also from a text: LLaVA's worker applies `float()` and `int()` to what it gets.
    """

    def __init__(self, body: dict[str, Any], *, lenient: bool) -> None:
        self.body = body
        self._lenient = lenient

    def number(self, name: str, *, low: float, high: float = math.inf) -> float | None:
        value = self.body.pop(name, None)
        if value is None:
            return None
        try:
            number = msgspec.convert(value, float, strict=not self._lenient)
        except msgspec.ValidationError:
            raise RequestError(f"{name!r} has to be a number, not {_kind(value)}") from None
        if not (math.isfinite(number) and low <= number <= high):
            bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise RequestError(f"{name!r} has to be {bounds}, not {number:g}")
        return number

    def whole(self, name: str, *, low: int | None = None) -> int | None:
        value = self.body.pop(name, None)
        if value is None:
            return None
        try:
            number = msgspec.convert(value, int, strict=not self._lenient)
        except msgspec.ValidationError:
            raise RequestError(f"{name!r} has to be a whole number, not {_kind(value)}") from None
        if low is not None and number < low:
            raise RequestError(f"{name!r} has to be at least {low}, not {number}")
        return number

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.body.pop(name, None)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise RequestError(f"{name!r} has to be true or false, not {_kind(value)}")
        return value

    def texts(self, name: str) -> list[str]:
        value = self.body.pop(name, None)
        if value is None:
            return []
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise RequestError(f"{name!r} has to be a text or a list of texts")
        return value

    def messages(self) -> list[dict[str, Any]]:
        value = self.body.pop("messages", None)
        if not isinstance(value, list) or not value:
            raise RequestError("'messages' has to be a list with at least one message")
        for number, message in enumerate(value):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise RequestError(f"'messages[{number}]' has to be an object with a 'role'")
            if not isinstance(message.get("content"), str | list | None):
                raise RequestError(f"'messages[{number}].content' has to be a text or a list of parts")
        return value


def _kind(value: object) -> str:
    """The JSON word for a value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value!r:.40}"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"
