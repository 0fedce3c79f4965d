"""How a chat is written as one prompt, told in FastChat's form; and that form found from a model's own template. Pure.

FastChat's clients ask a worker for it, write the prompt themselves, and send that. `served_model` checks what a user
says, engines derive it where they can. A derived one is proven: it writes sample chats as the model's template does.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import takewhile
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from broker_wire.messages import MAX_CONVERSATION_BYTES

NO_COLON_TWO = 5
"""FastChat's number, in all its versions, of the style that puts nothing of its own between the parts."""
SYSTEM_MESSAGE = "{system_message}"

Message = dict[str, str]
Render = Callable[[list[Message]], str | None]
"""A chat as the model's own template writes it, the assistant's turn left open; None for a chat that it refuses."""


class Conversation(Struct, frozen=True, kw_only=True):
    """The fields and defaults of FastChat's `Conversation`; its numbers of styles are in fastchat/conversation.py.

    Attributes:
        system_template: a format string with `{system_message}`; other braces are doubled.
        system_message: where the chat has none.
        messages: what every chat begins with, (role, text) each.
        sep, sep2: what follows a message; which of them follows which is the style's.
    """

    name: str = "model"
    system_template: str = SYSTEM_MESSAGE
    system_message: str = ""
    roles: Annotated[tuple[str, ...], Meta(min_length=2)] = ("USER", "ASSISTANT")
    messages: tuple[tuple[str, str], ...] = ()
    offset: int = 0
    sep_style: int = 1
    sep: str = "\n"
    sep2: str | None = None
    stop_str: str | tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None


def conversation_json(conversation: Conversation | Mapping[str, Any]) -> bytes:
    """As it is announced. A mapping may have fields of a newer FastChat, and lack those that have a default.

    Raises: ValueError, with the rest of a sentence.
    """
    try:
        said = msgspec.json.encode(conversation)
        known = msgspec.json.decode(said, type=Conversation)
        whole = said
        if not isinstance(conversation, Conversation):
            whole = msgspec.json.encode(msgspec.structs.asdict(known) | msgspec.json.decode(said, type=dict[str, Any]))
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"is not of FastChat's form: {error}") from None
    if len(whole) > MAX_CONVERSATION_BYTES:
        raise ValueError(f"has {len(whole)} bytes, {MAX_CONVERSATION_BYTES} can be announced")
    return whole


def derive_conversation(name: str, render: Render) -> Conversation | None:
    """FastChat's form of the template that `render` applies; None where it has none that writes the same.

    A model whose template writes a system prompt of its own, or an empty one, where a chat has none has such a form;
    one that leaves that block out has not, for FastChat's styles always write it.
    """
    parts = _parts(render, SAMPLES[1])
    if parts is None:
        return None
    head, to_assistant, to_user, _ = parts
    user = _user_mark(head, to_assistant, to_user)
    end_of_answer = to_user.removesuffix(user)
    end_of_question = end_of_answer if end_of_answer and to_assistant.startswith(end_of_answer) else ""
    system = _system_block(head.removesuffix(user), _parts(render, SAMPLES[3]), user)
    if system is None:
        return None
    template, default = system
    conversation = Conversation(
        name=name,
        system_template=template,
        system_message=default,
        roles=(user, to_assistant.removeprefix(end_of_question)),
        sep_style=NO_COLON_TWO,
        sep=end_of_question,
        sep2=end_of_answer,
    )
    return conversation if _proven(conversation, render) else None


_SYSTEM = {"role": "system", "content": "Answer as a pirate would."}
_USER = {"role": "user", "content": "Why is the sky blue?"}
_ASSISTANT = {"role": "assistant", "content": "Arr, it be the air.\n\nAye."}
_SECOND_USER = {"role": "user", "content": "And at {night}, <mate>?"}
SAMPLES: Sequence[list[Message]] = (
    [_USER],
    [_USER, _ASSISTANT, _SECOND_USER],
    [_USER, _ASSISTANT, _SECOND_USER, _ASSISTANT, _USER],
    [_SYSTEM, _USER],
    [_SYSTEM, _USER, _ASSISTANT, _SECOND_USER],
)


async def derive_by_asking(name: str, render: Callable[[list[Message]], Awaitable[str | None]]) -> Conversation | None:
    """The same where a template is applied by somebody who has to be asked. Raises: whatever `render` does."""
    rendered = {msgspec.json.encode(chat): await render(chat) for chat in SAMPLES}
    return derive_conversation(name, lambda chat: rendered[msgspec.json.encode(chat)])


def _parts(render: Render, chat: list[Message]) -> list[str] | None:
    """What the template writes before, between and after the messages; None if it refuses or changes them."""
    rest = render(chat)
    if rest is None:
        return None
    parts = []
    for message in chat:
        before, found, rest = rest.partition(message["content"])
        if not found:
            return None
        parts.append(before)
    return [*parts, rest]


def _user_mark(head: str, to_assistant: str, to_user: str) -> str:
    """What opens a user's turn: what comes before the first one and before later ones, but for the end of a line.

    Where every turn ends with the same line, that is the separator and no part of the mark.
    """
    mark = _common_prefix(head[::-1], to_user[::-1])[::-1]
    shared = _common_prefix(to_assistant, to_user)
    line = shared[: shared.rfind("\n") + 1]
    return mark.removeprefix(line) if to_user.startswith(line) and mark == to_user else mark


def _common_prefix(one: str, other: str) -> str:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(character for character, _ in pairs)


def _system_block(default_block: str, parts: list[str] | None, user: str) -> tuple[str, str] | None:
    """The system prompt's template, and the prompt for a chat that has none."""
    if parts is None:
        # A template that knows no system prompt: there is nothing to compare with.
        return _escaped(default_block) + SYSTEM_MESSAGE, ""
    before, after = parts[0], parts[1].removesuffix(user)
    if not (default_block.startswith(before) and default_block.endswith(after)):
        return None
    if len(default_block) < len(before) + len(after):
        return None
    default = default_block[len(before) : len(default_block) - len(after)]
    return _escaped(before) + SYSTEM_MESSAGE + _escaped(after), default


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _proven(conversation: Conversation, render: Render) -> bool:
    rendered = ((render(chat), chat) for chat in SAMPLES)
    return all(text is None or text == _written(conversation, chat) for text, chat in rendered)


def _written(conversation: Conversation, chat: list[Message]) -> str:
    """As FastChat writes it in the style NO_COLON_TWO."""
    system, separators = conversation.system_message, (conversation.sep, conversation.sep2 or "")
    turns: list[str] = []
    for message in chat:
        match message["role"]:
            case "system":
                system = message["content"]
            case role:
                mark = conversation.roles[0 if role == "user" else 1]
                turns.append(mark + message["content"] + separators[len(turns) % 2])
    return conversation.system_template.format(system_message=system) + "".join(turns) + conversation.roles[1]
