"""Makes a model's inputs of a request: the chat template, images in their places, tokens. Used by `transformers`."""

from typing import Any

import jinja2
from msgspec import Struct

from workers_shim import Request, RequestError
from workers_shim.engines.transformers_checkpoint import Checkpoint
from workers_shim.engines.transformers_images import read_images

LLAVA_IMAGE = "<image>"
"""Where an image is, in the prompts of LLaVA's protocol."""


class Prompt(Struct, frozen=True):
    """What the model is given.

    Attributes:
        inputs: the arguments of `generate`, on the model's device.
        tokens: all of them, with those of images, and of `Request.resume_text`.
        had: how many of them the client has as a part of the answer.
    """

    inputs: dict[str, Any]
    tokens: list[int]
    had: int


def make_prompt(checkpoint: Checkpoint, request: Request) -> Prompt:
    """Raises: RequestError, with a sentence."""
    images = _images_of(checkpoint, request)
    if request.messages is None:
        text, special = _text_of(checkpoint, request), True
    else:
        text = _chat_of(checkpoint, request.messages)
        special = _wants_special_tokens(checkpoint, text)
    whole = text + request.resume_text
    had = 0
    if request.resume_text:
        count = [len(checkpoint.tokenizer(part, add_special_tokens=special)["input_ids"]) for part in (whole, text)]
        had = count[0] - count[1]
    inputs = _inputs(checkpoint, whole, images, special)
    tokens: list[int] = inputs["input_ids"][0].tolist()
    if not tokens:
        raise RequestError("the prompt is empty: there is no token to go on from")
    if len(tokens) - had >= checkpoint.context_length:
        raise RequestError(f"prompt too long: {len(tokens) - had} tokens, the model takes {checkpoint.context_length}")
    return Prompt(inputs, tokens, had)


def chat_as_prompt(checkpoint: Checkpoint, messages: list[dict[str, Any]]) -> str | None:
    """The prompt that has a chat's tokens when it is completed; None for a chat that the template does not take."""
    try:
        text = _chat_of(checkpoint, messages)
    except RequestError:
        return None
    tokenizer = checkpoint.tokenizer
    # What the tokenizer puts before every prompt is not to be there twice.
    if tokenizer.bos_token and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return text.removeprefix(tokenizer.bos_token)
    return text


def _images_of(checkpoint: Checkpoint, request: Request) -> list[Any]:
    if request.images and checkpoint.processor is None:
        raise RequestError(f"model {request.model!r} does not take images")
    return read_images(request.images) if request.images else []


def _text_of(checkpoint: Checkpoint, request: Request) -> str:
    if request.prompt is None:
        raise RequestError(f"model {request.model!r} takes prompts as text, not as token numbers")
    if checkpoint.processor is None:
        return request.prompt
    return request.prompt.replace(LLAVA_IMAGE, checkpoint.image_mark)


def _chat_of(checkpoint: Checkpoint, messages: list[dict[str, Any]]) -> str:
    """A last message of the assistant is left open, and the answer goes on with it."""
    if not checkpoint.templater.chat_template:
        raise RequestError("this model has no chat template: ask for a completion of a prompt")
    read = _parts_of if checkpoint.processor is not None else _joined
    chat = [{"role": message["role"], "content": read(message.get("content"))} for message in messages]
    is_open = messages[-1]["role"] == "assistant"
    try:
        text: str = checkpoint.templater.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=not is_open, continue_final_message=is_open
        )
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        raise RequestError(f"the model's chat template does not take these messages: {error}") from error
    return text


def _parts_of(content: Any) -> list[dict[str, Any]]:
    """As the templates of models with images have them."""
    if not isinstance(content, list):
        return [{"type": "text", "text": content or ""}]
    parts: list[dict[str, Any]] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                parts.append({"type": "text", "text": text})
            case {"type": "image_url", "image_url": str() | {"url": str()}}:
                parts.append({"type": "image"})
            case _:
                raise RequestError("a part of a message's content has to be a text or an image_url")
    return parts


def _joined(content: Any) -> str:
    return "".join(part["text"] for part in _parts_of(content) if part["type"] == "text")


def _wants_special_tokens(checkpoint: Checkpoint, chat: str) -> bool:
    """Templates of text models write all special tokens; those of models with images often leave the first one out."""
    begin = checkpoint.tokenizer.bos_token
    return checkpoint.processor is not None and not (begin and chat.startswith(begin))


def _inputs(checkpoint: Checkpoint, text: str, images: list[Any], special: bool) -> dict[str, Any]:
    model = checkpoint.model
    if checkpoint.processor is None:
        encoded = checkpoint.tokenizer(text, add_special_tokens=special, return_tensors="pt")
        return {name: encoded[name].to(model.device) for name in ("input_ids", "attention_mask")}
    mark = checkpoint.image_mark
    if (places := text.count(mark)) != len(images):
        raise RequestError(f"the prompt has {places} places for images ({mark}), and the request {len(images)} images")
    encoded = checkpoint.processor(text=[text], images=images or None, add_special_tokens=special, return_tensors="pt")
    return dict(encoded.to(model.device, model.dtype))
