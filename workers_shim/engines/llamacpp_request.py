"""A request as llama.cpp wants it. Used by `llamacpp`."""

from typing import Any

from workers_shim import Request, RequestError

RANDOM_SEED = 2**32 - 1
"""llama.cpp's LLAMA_DEFAULT_SEED: it takes one of its own."""
MAX_CHOICES = 16
"""In one answer. They are written one after the other, in the slot of the request."""

# What a client may say besides the fields that `Request` has. Anything else would reach into the server's own doings.
_PASSED_ON = (
    "top_k",
    "min_p",
    "typical_p",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "grammar",
    "json_schema",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "chat_template_kwargs",
    "ignore_eos",
)

SHAPED = ("grammar", "json_schema", "response_format", "tools")
"""What makes of an answer more than text that can be continued."""


def body_of(request: Request, *, sees_images: bool) -> dict[str, Any]:
    """One choice of it. Raises: RequestError."""
    if request.max_tokens == 0:
        raise RequestError("the largest number of tokens has to be at least 1")
    _check_images(request, sees_images)
    body: dict[str, Any] = {name: request.parameters[name] for name in _PASSED_ON if name in request.parameters}
    # vLLM's, FastChat's and LLaVA's word for it.
    if "repetition_penalty" in request.parameters:
        body.setdefault("repeat_penalty", request.parameters["repetition_penalty"])
    for name in ("temperature", "top_p"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.messages is None:
        if request.prompt is None:
            raise RequestError(f"model {request.model!r} takes prompts as text, not as token numbers")
        body["prompt"] = request.prompt + request.resume_text
    else:
        body["messages"] = _continued(request.messages, request.resume_text)
    return body | {
        "seed": _seed_of(request),
        "max_tokens": request.max_tokens,
        "stop": request.stop,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }


def _continued(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """llama.cpp leaves a last message of the assistant open: the template is applied and the answer goes on."""
    if not text:
        return messages
    last = messages[-1]
    if last["role"] == "assistant" and isinstance(last.get("content"), str):
        return [*messages[:-1], last | {"content": last["content"] + text}]
    return [*messages, {"role": "assistant", "content": text}]


def choices_of(request: Request) -> int:
    """How many answers are wanted. Raises: RequestError."""
    wanted = request.parameters.get("n")
    if wanted is None:
        return 1
    if not isinstance(wanted, int) or not 1 <= wanted <= MAX_CHOICES:
        raise RequestError(f"'n' has to be a whole number from 1 to {MAX_CHOICES}")
    return wanted


def _check_images(request: Request, sees_images: bool) -> None:
    """llama.cpp would fetch what an address names, or read a file of this machine."""
    parts = [part for message in request.messages or () for part in _parts(message.get("content"))]
    if not request.images and not parts:
        return
    if any(part.get("type") not in ("text", "image_url") for part in parts):
        raise RequestError("a part of a message's content has to be a text or an image_url")
    if request.images and not sees_images:
        raise RequestError(f"model {request.model!r} does not take images")
    if len(request.images) != sum(part["type"] == "image_url" for part in parts):
        raise RequestError(f"model {request.model!r} takes images as image_url parts of a chat's messages only")
    if not all(image.startswith("data:") for image in request.images):
        raise RequestError("addresses are not fetched: send the image as a data URL, data:image/png;base64,…")


def _parts(content: Any) -> list[dict[str, Any]]:
    return [part if isinstance(part, dict) else {} for part in content] if isinstance(content, list) else []


def _seed_of(request: Request) -> int:
    """The client's, or one that another worker takes, too."""
    seed = request.seed
    if seed is None or seed % 2**32 == RANDOM_SEED:
        seed = request.default_seed
    return seed % 2**32
