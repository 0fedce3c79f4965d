"""A chat as the one text that an old worker understands: by its own template if it tells it, else as Vicuna's. Pure.

FastChat's workers tell their template as an object with roles, separators and the number of a style, which are in
`styles`. LLaVA's workers tell nothing. Used by `engine`.
"""

import logging
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from workers_shim import RequestError
from workers_shim.engines.http.styles import LATER, RELEASED, Parts, Write

_log = logging.getLogger(__name__)

IMAGE_TOKEN = "<image>"  # noqa: S105, LLaVA's and FastChat's mark for where an image belongs


class Template(Struct, frozen=True):
    """What a worker tells, with the names that FastChat's workers give to the parts."""

    system_template: str = "{system_message}"
    system_message: str = ""
    roles: Annotated[tuple[str, ...], Meta(min_length=2)] = ("USER", "ASSISTANT")
    messages: list[tuple[str, str]] = []
    sep_style: int = 2
    sep: str = " "
    sep2: str | None = "</s>"
    stop_str: str | list[str] | None = None
    stop_token_ids: list[int] | None = None


class Conversation(Struct, frozen=True):
    """A template, and what the number of its style means."""

    template: Template
    write: Write

    @property
    def stops(self) -> list[str]:
        """Strings that end an answer, whatever the request says."""
        said = self.template.stop_str
        return [stop for stop in ([said] if isinstance(said, str) else said or []) if stop]

    @property
    def stop_token_ids(self) -> list[int] | None:
        """Tokens that do."""
        return self.template.stop_token_ids


# LLaVA: the template "v1", Vicuna's, which most of its models were trained with.
_VICUNA = Template(
    system_message="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
)
VICUNA = Conversation(_VICUNA, LATER[_VICUNA.sep_style])


def conversation_from(answer: object) -> Conversation | None:
    """From the JSON of `/worker_get_conv_template`; None when it is not of that form.

    A style that is not known is answered with Vicuna's punctuation and the worker's own stop strings, and a warning.
    """
    said = answer.get("conv") if isinstance(answer, dict) else None
    if not isinstance(said, dict):
        return None
    try:
        template = msgspec.convert({key: value for key, value in said.items() if value is not None}, Template)
    except msgspec.ValidationError as error:
        _log.warning("conversation template not understood error=%s", error)
        return None
    # A field that came with the later numbers, and is told even where it is null.
    styles = LATER if "max_image_size_mb" in said else RELEASED
    if template.sep_style not in styles:
        name = str(said.get("name"))[:80]
        _log.warning("conversation style not known, using another name=%s style=%d", name, template.sep_style)
        stops = {"stop_str": template.stop_str, "stop_token_ids": template.stop_token_ids}
        return Conversation(msgspec.structs.replace(_VICUNA, **stops), VICUNA.write)
    return Conversation(template, styles[template.sep_style])


def render(conversation: Conversation, messages: Iterable[dict[str, Any]]) -> str:
    """The prompt: what was said, then the name of the role whose turn it is.

    Raises: RequestError, for a role or a part of a message that this kind of worker does not know.
    """
    template = conversation.template
    system, user, assistant = template.system_message, template.roles[0], template.roles[1]
    turns = list(template.messages)
    for message in messages:
        role, text = message["role"], _text_of(message.get("content"))
        if message.get("tool_calls") or message.get("function_call"):
            raise RequestError("this worker knows texts and images, no calls of tools")
        match role:
            case "system" | "developer":
                system = text
            case "user":
                turns.append((user, text))
            case "assistant":
                turns.append((assistant, text))
            case _:
                raise RequestError(f"this worker knows messages of system, user and assistant, not of {role!r}")
    system_prompt = _filled(template.system_template, system)
    return conversation.write(Parts(system, system_prompt, (user, assistant), turns, template.sep, template.sep2 or ""))


def _filled(template: str, system: str) -> str:
    """As `str.format` does, but for whatever else a stranger's format string could ask for."""
    parts = template.split("{system_message}")
    return system.join(part.replace("{{", "{").replace("}}", "}") for part in parts)


def _text_of(content: object) -> str:
    """A message's text, with a mark for each image before it, as LLaVA's models learnt it."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts, images = [], 0
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            images += 1
        else:
            raise RequestError(f"this worker takes texts and images, not a part of type {kind!r}")
    return f"{IMAGE_TOKEN}\n" * images + "\n".join(texts)
