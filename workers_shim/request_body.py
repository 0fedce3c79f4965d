"""Reads a client's body by the protocol that it belongs to (`Operation`), into the `Request` that an engine sees.

Used by `run`. What is wrong with a body is said in words that name the field.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from broker_wire.messages import Generate, Operation
from workers_shim.request import Link, Request, RequestError

LLAVA_MAX_NEW_TOKENS = 256
"""LLaVA's model worker: `int(params.get("max_new_tokens", 256))`."""
MAX_TOKENS = 2**31 - 1
"""More than any context holds, and as much as engines written in C can count."""
MAX_INPUTS = 2048
"""OpenAI's: inputs of one request for embeddings. Prompts of a completion are bounded by the same."""

T = TypeVar("T")
NumberT = TypeVar("NumberT", int, float)


def parse_request(
    generate: Generate, *, deadline: float, suspect: bool, link: Link, unchecked: bool = False
) -> Request:
    """Read the client's body.

    `unchecked`: the engine passes the body on, to whoever has the last word on it: what cannot be read here is as if
    it were absent. LLaVA's bodies are always read.

    Raises: RequestError, with a sentence that names the field.
    """
    try:
        body = msgspec.json.decode(generate.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise RequestError(f"the body has to be a JSON object, not {_kind(body)}")
    is_llava = generate.operation is Operation.LLAVA
    fields = _Fields(body, lenient=is_llava, unchecked=unchecked and not is_llava)
    body.pop("model", None)
    images = fields.texts("images")
    inputs = _inputs(fields, generate.operation)
    messages = None
    if generate.operation is Operation.CHAT:
        messages = fields.required("messages", _messages)
        body.pop("messages", None)
        images += _images_of(messages)
    return Request(
        model=generate.model,
        operation=generate.operation,
        messages=messages,
        prompt=_one_prompt(fields, generate.operation, inputs),
        inputs=inputs,
        images=images,
        max_tokens=_max_tokens(fields, generate.operation),
        temperature=fields.number("temperature", low=0.0),
        top_p=fields.number("top_p", low=0.0, high=1.0),
        stop=[text for text in fields.texts("stop") if text],
        seed=fields.whole("seed"),
        default_seed=_default_seed(generate),
        stream=fields.flag("stream", default=is_llava),
        parameters=body,
        deadline=deadline,
        request_id=generate.request_id,
        raw=generate.body,
        suspect=suspect,
        hops=generate.hops,
        link=link,
    )


def _default_seed(generate: Generate) -> int:
    """From what is the request's own, so that every worker finds the same: a controller's id is drawn by chance."""
    name = f"{generate.controller} {generate.stream}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=4).digest()) >> 1


def _inputs(fields: "_Fields", operation: Operation) -> list[str | list[int]]:
    """What to complete or to embed; [] for a chat, and for a list of what only the engine may know."""
    name = _input_name(operation)
    if name is None:
        return []
    return fields.required(name, _one_text if operation is Operation.LLAVA else _several)


def _one_prompt(fields: "_Fields", operation: Operation, inputs: list[str | list[int]]) -> str | None:
    """The only text, which is then no parameter any more."""
    name = _input_name(operation)
    if name is None or len(inputs) != 1 or not isinstance(inputs[0], str):
        return None
    del fields.body[name]
    return inputs[0]


def _input_name(operation: Operation) -> str | None:
    match operation:
        case Operation.CHAT:
            return None
        case Operation.EMBEDDING:
            return "input"
        case _:
            return "prompt"


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


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
    """Takes known fields out of a body.

    `lenient` reads a number also from a text: LLaVA's worker applies `float()` and `int()` to what it gets.
    `unchecked` gives the default for what is wrong; else it is refused.
    """

    def __init__(self, body: dict[str, Any], *, lenient: bool, unchecked: bool) -> None:
        self.body = body
        self._lenient = lenient
        self._unchecked = unchecked

    def required(self, name: str, read: Callable[[str, Any], list[T]]) -> list[T]:
        """One that has to be there. It stays in the body. Raises: RequestError, as all here."""
        try:
            return read(name, self.body.get(name))
        except RequestError:
            if self._unchecked:
                return []
            raise

    def _optional(self, name: str, read: Callable[[str, Any], T], default: T) -> T:
        value = self.body.pop(name, None)
        if value is None:
            return default
        try:
            return read(name, value)
        except RequestError:
            if self._unchecked:
                return default
            raise

    def number(self, name: str, *, low: float, high: float = math.inf) -> float | None:
        def read(name: str, value: Any) -> float:
            number = self._convert(name, value, float, "a number")
            if not (math.isfinite(number) and low <= number <= high):
                bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                raise RequestError(f"{name!r} has to be {bounds}, not {number:g}")
            return number

        return self._optional(name, read, None)

    def whole(self, name: str, *, low: int | None = None) -> int | None:
        def read(name: str, value: Any) -> int:
            number = self._convert(name, value, int, "a whole number")
            if low is not None and number < low:
                raise RequestError(f"{name!r} has to be at least {low}, not {number}")
            return number

        return self._optional(name, read, None)

    def flag(self, name: str, *, default: bool) -> bool:
        return self._optional(name, _flag, default)

    def texts(self, name: str) -> list[str]:
        return self._optional(name, _texts, [])

    def _convert(self, name: str, value: Any, kind: type[NumberT], words: str) -> NumberT:
        try:
            return msgspec.convert(value, kind, strict=not self._lenient)
        except msgspec.ValidationError:
            raise RequestError(f"{name!r} has to be {words}, not {_kind(value)}") from None


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestError(f"{name!r} has to be true or false, not {_kind(value)}")
    return value


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RequestError(f"{name!r} has to be a text or a list of texts")
    return value


def _messages(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise RequestError(f"{name!r} has to be a list with at least one message")
    for number, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError(f"'{name}[{number}]' has to be an object with a 'role'")
        if not isinstance(message.get("content"), str | list | None):
            raise RequestError(f"'{name}[{number}].content' has to be a text or a list of parts")
    return value


def _one_text(name: str, value: Any) -> list[str | list[int]]:
    if value is None:
        raise RequestError(f"{name!r} is missing: it is the text to work on")
    if not isinstance(value, str):
        raise RequestError(f"{name!r} has to be a text, not {_kind(value)}")
    return [value]


def _several(name: str, value: Any) -> list[str | list[int]]:
    if not isinstance(value, list) or not value:
        return _one_text(name, value)
    inputs: list[str | list[int]] = [value] if _are_tokens(value) else value
    if len(inputs) > MAX_INPUTS:
        raise RequestError(f"{name!r} has {len(inputs)} entries, {MAX_INPUTS} can be taken")
    return inputs if all(isinstance(one, str) or _are_tokens(one) for one in inputs) else []


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
