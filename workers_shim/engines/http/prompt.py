"""A chat as the one text that an old worker understands: by its own template if it tells it, else as Vicuna's. Pure.

FastChat's workers tell their template as an object with roles, separators and the number of a style; the styles here
are those that differ in punctuation only. LLaVA's workers tell nothing. Used by `engine`.
"""

import logging
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from workers_shim import RequestError

_log = logging.getLogger(__name__)

IMAGE_TOKEN = "<image>"  # noqa: S105, LLaVA's and FastChat's mark for where an image belongs


class Style(Struct, frozen=True):
    """The punctuation of a template.

    Attributes:
        after_role: between a role and its message.
        opening: after the role whose turn it is to speak.
        separator_after_system: whether the separator follows the system prompt, too.
        alternate: the second separator follows every second message.
        line_end: after each separator.
    """

    after_role: str
    opening: str
    separator_after_system: bool = True
    alternate: bool = False
    line_end: str = ""


# FastChat: fastchat/conversation.py, the numbers of SeparatorStyle.
STYLES = {
    1: Style(": ", ":"),  # ADD_COLON_SINGLE
    2: Style(": ", ":", alternate=True),  # ADD_COLON_TWO
    3: Style(": ", ": "),  # ADD_COLON_SPACE_SINGLE
    4: Style("", "", separator_after_system=False),  # NO_COLON_SINGLE
    5: Style("", "", separator_after_system=False, alternate=True),  # NO_COLON_TWO
    6: Style("\n", "\n"),  # ADD_NEW_LINE_SINGLE
    10: Style("\n", "\n", line_end="\n"),  # CHATML
    15: Style(":\n", ":\n"),  # ROBIN
    18: Style(": ", ":", separator_after_system=False, alternate=True),  # DEEPSEEK_CHAT
}
# A style that begins with the separator even if there is no system prompt.
_SEPARATOR_WITHOUT_SYSTEM = frozenset({1, 2, 3, 15})


class Conversation(Struct, frozen=True):
    """A template, with the names that FastChat's workers give to its parts."""

    system_template: str = "{system_message}"
    system_message: str = ""
    roles: tuple[str, str] = ("USER", "ASSISTANT")
    messages: list[tuple[str, str]] = []
    sep_style: int = 2
    sep: str = " "
    sep2: str | None = "</s>"
    stop_str: str | list[str] | None = None
    stop_token_ids: list[int] | None = None

    @property
    def stops(self) -> list[str]:
        """Strings that end an answer, whatever the request says."""
        stops = [self.stop_str] if isinstance(self.stop_str, str) else self.stop_str or []
        return [stop for stop in stops if stop]


# LLaVA: the template "v1", Vicuna's, which most of its models were trained with.
VICUNA = Conversation(
    system_message="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
)


def conversation_from(answer: object) -> Conversation | None:
    """From the JSON of `/worker_get_conv_template`; None when it is not of that form.

    A style that is not known is answered with Vicuna's punctuation and the worker's own roles, and a warning.
    """
    template = answer.get("conv") if isinstance(answer, dict) else None
    if not isinstance(template, dict):
        return None
    try:
        conversation = msgspec.convert(
            {key: value for key, value in template.items() if value is not None}, Conversation
        )
    except msgspec.ValidationError as error:
        _log.warning("conversation template not understood error=%s", error)
        return None
    if conversation.sep_style not in STYLES:
        name = str(template.get("name"))[:80]
        _log.warning("conversation style not known, using another name=%s style=%d", name, conversation.sep_style)
        return msgspec.structs.replace(
            VICUNA, stop_str=conversation.stop_str, stop_token_ids=conversation.stop_token_ids
        )
    return conversation


def render(conversation: Conversation, messages: Iterable[dict[str, Any]]) -> str:
    """The prompt: what was said, then the name of the role whose turn it is.

    Raises: RequestError, for a role or a part of a message that this kind of worker does not know.
    """
    system = conversation.system_message
    turns = list(conversation.messages)
    for message in messages:
        role, text = message["role"], _text_of(message.get("content"))
        match role:
            case "system" | "developer":
                system = text
            case "user":
                turns.append((conversation.roles[0], text))
            case "assistant":
                turns.append((conversation.roles[1], text))
            case _:
                raise RequestError(f"this worker knows messages of system, user and assistant, not of {role!r}")
    return _punctuate(conversation, system, turns)


def _punctuate(conversation: Conversation, system: str, turns: list[tuple[str, str]]) -> str:
    style = STYLES[conversation.sep_style]
    separators = (conversation.sep, (conversation.sep2 or "") if style.alternate else conversation.sep)
    parts = [conversation.system_template.replace("{system_message}", system)]
    if style.separator_after_system and (parts[0] or conversation.sep_style in _SEPARATOR_WITHOUT_SYSTEM):
        parts.append(conversation.sep + style.line_end)
    for number, (role, text) in enumerate(turns):
        parts.append(f"{role}{style.after_role}{text}{separators[number % 2]}{style.line_end}")
    parts.append(conversation.roles[1] + style.opening)
    return "".join(parts)


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
