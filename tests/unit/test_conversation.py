"""A model's own template in FastChat's form: found where there is one that writes the same, and only there."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from workers_shim.conversation import Conversation, Message, conversation_json, derive_conversation

Render = Callable[[list[Message]], str | None]


def blocks(begin: str, end: str, opening: str, *, head: str = "", default: str | None = None) -> Render:
    """A template of one block a message; `begin` has the role's name in it, `default` is its own system prompt."""

    def render(chat: list[Message]) -> str | None:
        if default is not None and chat[0]["role"] != "system":
            chat = [{"role": "system", "content": default}, *chat]
        written = (f"{begin.format(message['role'])}{message['content']}{end}" for message in chat)
        return head + "".join(written) + opening

    return render


def vicuna(chat: list[Message]) -> str | None:
    text = "Be polite." if chat[0]["role"] != "system" else chat[0]["content"]
    for message in chat:
        if message["role"] != "system":
            mark, end = ("USER", "") if message["role"] == "user" else ("ASSISTANT", "</s>")
            text += f" {mark}: {message['content']}{end}"
    return f"{text} ASSISTANT: "


def without_system_prompts(chat: list[Message]) -> str | None:
    if chat[0]["role"] == "system":
        return None
    return blocks("<turn>{}\n", "<end>\n", "<turn>assistant\n", head="<bos>")(chat)


CHATML = blocks("<|im_start|>{}\n", "<|im_end|>\n", "<|im_start|>assistant\n", default="Be {kind}.")
HEADERS = blocks("<|{}|>\n\n", "<|eot|>", "<|assistant|>\n\n", head="<bos>", default="")


def as_fastchat(said: Conversation, chat: list[Message]) -> str:
    """FastChat's NO_COLON_TWO."""
    system = next((message["content"] for message in chat if message["role"] == "system"), said.system_message)
    text = said.system_template.format(system_message=system)
    for number, message in enumerate(message for message in chat if message["role"] != "system"):
        text += said.roles[number % 2] + message["content"] + [said.sep, said.sep2 or ""][number % 2]
    return text + said.roles[1]


CHAT = [
    {"role": "system", "content": "Speak {braces}."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
]


@pytest.mark.parametrize("render", [CHATML, HEADERS, vicuna], ids=["chatml", "headers", "vicuna"])
def test_a_template_that_always_writes_a_system_prompt_has_such_a_form(render: Render) -> None:
    conversation = derive_conversation("m", render)

    assert conversation is not None
    assert (conversation.name, conversation.sep_style) == ("m", 5)
    for chat in (CHAT, CHAT[1:], CHAT[1:2]):
        assert as_fastchat(conversation, chat) == render(chat)


def test_chatml_is_told_in_its_usual_parts() -> None:
    conversation = derive_conversation("m", CHATML)

    assert conversation is not None
    assert conversation.system_template == "<|im_start|>system\n{system_message}<|im_end|>\n"
    assert conversation.system_message == "Be {kind}."
    assert conversation.roles == ("<|im_start|>user\n", "<|im_start|>assistant\n")
    assert (conversation.sep, conversation.sep2) == ("<|im_end|>\n", "<|im_end|>\n")


def test_of_a_template_that_knows_no_system_prompt_the_rest_is_told() -> None:
    conversation = derive_conversation("m", without_system_prompts)

    assert conversation is not None
    assert as_fastchat(conversation, CHAT[1:]) == without_system_prompts(CHAT[1:])


def shouting(chat: list[Message]) -> str | None:
    text = CHATML(chat)
    return None if text is None else text.upper()


def counting(chat: list[Message]) -> str | None:
    return "".join(f"[Round {number}] {message['content']}\n" for number, message in enumerate(chat)) + "Answer:"


def thinking(chat: list[Message]) -> str | None:
    text = CHATML(chat)
    return None if text is None else text + "<think>\n"


@pytest.mark.parametrize(
    "render",
    [
        blocks("<|im_start|>{}\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
        shouting,
        counting,
        thinking,
        lambda _chat: None,
    ],
    ids=["leaves the system prompt out", "changes texts", "counts rounds", "opens the answer otherwise", "refuses"],
)
def test_a_template_that_fastchat_cannot_write_is_not_told(render: Render) -> None:
    assert derive_conversation("m", render) is None


# --- what a user says


def test_a_mapping_keeps_its_fields_and_gets_those_that_it_lacks() -> None:
    said = {"name": "mine", "roles": ("Q", "A", "S"), "sep_style": 2, "sep2": "</s>", "max_image_size_mb": None}
    told = msgspec.json.decode(conversation_json(said))

    assert told["roles"] == ["Q", "A", "S"]
    assert (told["sep_style"], told["sep"], told["sep2"]) == (2, "\n", "</s>")
    assert (told["messages"], told["offset"], told["stop_str"], told["stop_token_ids"]) == ([], 0, None, None)
    assert "max_image_size_mb" in told


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"roles": ["only one"]}, "is not of FastChat's form"),
        ({"sep_style": "CHATML"}, "is not of FastChat's form"),
        ({"sep": object()}, "is not of FastChat's form"),
        ({"system_message": "x" * 20_000}, "can be announced"),
    ],
)
def test_what_is_no_conversation_is_refused(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        conversation_json(said)
