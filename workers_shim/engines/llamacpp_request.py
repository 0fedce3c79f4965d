"""A request as llama.cpp wants it. Used by `llamacpp`."""

from typing import Any

from workers_shim import Request, RequestError
from workers_shim.engines.llamacpp_images import check_images, prompt_with_images

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


def body_of(request: Request, *, media_marker: str | None) -> dict[str, Any]:
    """One choice of it.

    Args:
        media_marker: what stands in a prompt where an image does; None for a model that does not see.

    Raises: RequestError.
    """
    if request.max_tokens == 0:
        raise RequestError("the largest number of tokens has to be at least 1")
    check_images(request, sees_images=media_marker is not None)
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
        if request.images and media_marker is not None:
            body["prompt"] = prompt_with_images(request, body["prompt"], media_marker)
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


def _seed_of(request: Request) -> int:
    """The client's, or one that another worker takes, too."""
    seed = request.seed
    if seed is None or seed % 2**32 == RANDOM_SEED:
        seed = request.default_seed
    return seed % 2**32
