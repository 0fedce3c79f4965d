"""Reads a client's body by the protocol that it belongs to (`Operation`), into the `Request` that an engine sees.

Used by `run`. What is wrong with a body is said in words that name the field.
"""

import hashlib
import math
from typing import Any

import msgspec

from broker_wire.messages import Generate, Operation
from workers_shim.request import Link, Request, RequestError

LLAVA_MAX_NEW_TOKENS = 256
"""LLaVA's model worker: `int(params.get("max_new_tokens", 256))`."""
MAX_TOKENS = 2**31 - 1
"""More than any context holds, and as much as engines written in C can count."""
MAX_INPUTS = 2048
"""OpenAI's: inputs of one request for embeddings. Prompts of a completion are bounded by the same."""


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
    inputs = _inputs(fields, generate.operation)
    messages = fields.messages() if generate.operation is Operation.CHAT else None
    if messages:
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
        stream=fields.flag("stream", default=generate.operation is Operation.LLAVA),
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
    value = fields.body.get(name)
    if value is None:
        raise RequestError(f"{name!r} is missing: it is the text to work on")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value or operation is Operation.LLAVA:
        raise RequestError(f"{name!r} has to be a text, not {_kind(value)}")
    inputs: list[str | list[int]] = [value] if _are_tokens(value) else value
    if len(inputs) > MAX_INPUTS:
        raise RequestError(f"{name!r} has {len(inputs)} entries, {MAX_INPUTS} can be taken")
    return inputs if all(isinstance(one, str) or _are_tokens(one) for one in inputs) else []


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
