"""A client's request as the server behind `openai` gets it. Pure.

What came by OpenAI's protocol goes up as it came; only what has to be another value is replaced. LLaVA's becomes a
completion, or a chat where it has images.
"""

from typing import Any

import msgspec
from msgspec import Struct

from broker_wire.messages import Operation
from workers_shim import Request

_PATHS = {
    Operation.CHAT: "/chat/completions",
    Operation.COMPLETION: "/completions",
    Operation.EMBEDDING: "/embeddings",
}
# The first characters of an image in base64.
_IMAGE_TYPES = {"/9j/": "jpeg", "iVBOR": "png", "R0lGOD": "gif", "UklGR": "webp"}
_IMAGE_MARK = "<image>"
"""Where LLaVA's prompts have an image; in a chat the images stand before the text."""

_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Call(Struct, frozen=True):
    """One request to the server.

    Attributes:
        path: below the server's `/v1`.
        streams: the answer comes in chunks.
        as_text: the client does not speak OpenAI's protocol: it wants the text, not the chunks.
    """

    path: str
    body: bytes
    streams: bool
    as_text: bool = False


def make_call(request: Request, upstream: str, *, seeded: bool) -> Call:
    """What to ask the server, which knows the model as `upstream`.

    `seeded`: where the client sent no seed, one that is the same at every attempt.
    """
    changes: dict[str, Any] = {}
    if seeded and request.seed is None and request.operation is not Operation.EMBEDDING:
        changes["seed"] = request.default_seed
    if request.operation is Operation.LLAVA:
        return _call_of_llava(request, {"model": upstream} | changes)
    if upstream != request.model:
        changes["model"] = upstream
    streams = request.stream and request.operation is not Operation.EMBEDDING
    return Call(_PATHS[request.operation], replace_fields(request.raw, changes), streams)


def replace_fields(body: bytes, changes: dict[str, Any]) -> bytes:
    """A JSON object with some of its values replaced or added; the bytes of all others stay what they were."""
    if not changes:
        return body
    return _encode(_read_fields(body) | {name: msgspec.Raw(_encode(value)) for name, value in changes.items()})


def _call_of_llava(request: Request, body: dict[str, Any]) -> Call:
    body |= {"max_tokens": request.max_tokens, "stream": True, "stream_options": {"include_usage": True}}
    for name in ("temperature", "top_p"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.stop:
        body["stop"] = request.stop
    if request.seed is not None:
        body["seed"] = request.seed
    prompt = request.prompt or ""
    if not request.images:
        return Call(_PATHS[Operation.COMPLETION], _encode(body | {"prompt": prompt}), streams=True, as_text=True)
    content = [{"type": "image_url", "image_url": {"url": _image_url(image)}} for image in request.images]
    content.append({"type": "text", "text": prompt.replace(_IMAGE_MARK, "").strip()})
    body["messages"] = [{"role": "user", "content": content}]
    return Call(_PATHS[Operation.CHAT], _encode(body), streams=True, as_text=True)


def _image_url(image: str) -> str:
    """LLaVA's clients send base64 without saying of what."""
    if image.startswith(("data:", "http://", "https://")):
        return image
    kind = next((kind for start, kind in _IMAGE_TYPES.items() if image.startswith(start)), "png")
    return f"data:image/{kind};base64,{image}"
