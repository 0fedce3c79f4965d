"""The images of a request as llama.cpp wants them. Used by `llamacpp_request`.

A chat has them in its messages, and goes on as it is. A prompt of LLaVA's protocol has `<image>` where each of them
belongs, and they are beside it.
"""

from typing import Any

from workers_shim import Request, RequestError

PLACEHOLDER = "<image>"
"""LLaVA's DEFAULT_IMAGE_TOKEN."""
_CHATS_ONLY = ("response_format", "tools", "tool_choice")
"""What llama.cpp knows by OpenAI's protocol alone, in which a prompt has no images."""


def check_images(request: Request, *, sees_images: bool) -> None:
    """llama.cpp would fetch what an address names, or read a file of this machine. Raises: RequestError."""
    parts = [part for message in request.messages or () for part in _parts(message.get("content"))]
    if not request.images and not parts:
        return
    if any(part.get("type") not in ("text", "image_url") for part in parts):
        raise RequestError("a part of a message's content has to be a text or an image_url")
    if request.images and not sees_images:
        raise RequestError(f"model {request.model!r} does not take images")
    if any("://" in image[:40] for image in request.images):
        raise RequestError("addresses are not fetched: send the image as a data URL, data:image/png;base64,…")
    if request.messages is None:
        _check_prompt(request)
    elif len(request.images) != sum(part["type"] == "image_url" for part in parts):
        raise RequestError(f"model {request.model!r} takes a chat's images as image_url parts of its messages only")
    elif not all(image.startswith("data:") for image in request.images):
        raise RequestError("an image_url has to be a data URL, data:image/png;base64,…")


def prompt_with_images(request: Request, prompt: str, media_marker: str) -> dict[str, Any]:
    """A prompt and what its markers stand for.

    Args:
        prompt: that of the request, and what has been answered.
        media_marker: what llama.cpp takes for an image.
    """
    count = len(request.images)
    data = [image.rpartition(",")[2] for image in request.images]
    return {"prompt_string": prompt.replace(PLACEHOLDER, media_marker, count), "multimodal_data": data}


def _check_prompt(request: Request) -> None:
    places = (request.prompt or "").count(PLACEHOLDER)
    if places != len(request.images):
        raise RequestError(f"the prompt has {places} times {PLACEHOLDER!r}, and {len(request.images)} images came")
    for name in _CHATS_ONLY:
        if request.parameters.get(name):
            raise RequestError(f"{name!r} goes with the images of a chat, not with those of a prompt")


def _parts(content: Any) -> list[dict[str, Any]]:
    return [part if isinstance(part, dict) else {} for part in content] if isinstance(content, list) else []
