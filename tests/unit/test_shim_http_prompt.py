"""Chats as texts for workers that know prompts only."""

import pytest

from workers_shim import RequestError
from workers_shim.engines.http.prompt import VICUNA, conversation_from, render

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "And?"},
]


def template(**fields: object) -> dict[str, object]:
    return {"conv": {"name": "t", "roles": ["user", "bot"], "messages": [], "offset": 0, "sep": "|", **fields}}


ANY_VERSION = [
    ({"sep_style": 1}, "Be brief.|user: Hi|bot: Hello|user: And?|bot:"),
    ({"sep_style": 2, "sep2": "~"}, "Be brief.|user: Hi|bot: Hello~user: And?|bot:"),
    ({"sep_style": 3}, "Be brief.|user: Hi|bot: Hello|user: And?|bot: "),
    ({"sep_style": 4}, "Be brief.userHi|botHello|userAnd?|bot"),
    ({"sep_style": 5, "sep2": "~"}, "Be brief.userHi|botHello~userAnd?|bot"),
    ({"sep_style": 6}, "Be brief.|user\nHi|bot\nHello|user\nAnd?|bot\n"),
    (
        {"sep_style": 7, "sep2": "~", "system_template": "[INST] <{system_message}> "},
        "[INST] <Be brief.> Hi bot Hello~user And?|bot",
    ),
]
CHATML = "<sys>Be brief.|\nuser\nHi|\nbot\nHello|\nuser\nAnd?|\nbot\n"
SYSTEM = {"system_template": "<sys>{system_message}"}
CHATINTERN = "<sys>Be brief.<s>user:Hi|\nbot:Hello~\n<s>user:And?|\nbot:"
RELEASED = [
    *ANY_VERSION,
    ({"sep_style": 9, **SYSTEM}, CHATML),
    ({"sep_style": 10, "sep2": "~", **SYSTEM}, CHATINTERN),
    ({"sep_style": 14}, "Be brief.|user:\nHi|bot:\nHello|user:\nAnd?|bot:\n"),
]
LATER = [
    *ANY_VERSION,
    (
        {"sep_style": 8},
        "<|begin_of_text|>Be brief."
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>bot<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd?<|eot_id|>"
        "<|start_header_id|>bot<|end_header_id|>\n\n",
    ),
    ({"sep_style": 10, **SYSTEM}, CHATML),
    ({"sep_style": 11, "sep2": "~", **SYSTEM}, CHATINTERN),
    ({"sep_style": 15}, "Be brief.|user:\nHi|bot:\nHello|user:\nAnd?|bot:\n"),
]


@pytest.mark.parametrize(("fields", "expected"), RELEASED)
def test_a_chat_is_written_by_the_workers_own_template(fields: dict[str, object], expected: str) -> None:
    conversation = conversation_from(template(**fields))

    assert conversation is not None
    assert render(conversation, CHAT) == expected


@pytest.mark.parametrize(("fields", "expected"), LATER)
def test_the_numbers_of_styles_after_the_last_release_are_told_by_a_field_of_that_time(
    fields: dict[str, object], expected: str
) -> None:
    conversation = conversation_from(template(max_image_size_mb=None, **fields))

    assert conversation is not None
    assert render(conversation, CHAT) == expected


def test_braces_around_the_system_prompt_are_those_of_a_format_string() -> None:
    conversation = conversation_from(template(sep_style=4, system_template="{{{system_message}}} {0.x} "))

    assert conversation is not None
    assert render(conversation, CHAT[:2]) == "{Be brief.} {0.x} userHi|bot"


def test_a_template_may_begin_with_turns_of_its_own_and_with_no_system_prompt() -> None:
    conversation = conversation_from(template(sep_style=6, messages=[["user", "1+1"], ["bot", "2"]]))

    assert conversation is not None
    assert render(conversation, [{"role": "user", "content": "2+2"}]) == "user\n1+1|bot\n2|user\n2+2|bot\n"


def test_a_worker_that_tells_no_template_gets_vicunas() -> None:
    prompt = render(VICUNA, CHAT[1:])

    assert prompt.startswith("A chat between")
    assert prompt.endswith(" USER: Hi ASSISTANT: Hello</s>USER: And? ASSISTANT:")


def test_images_are_marked_before_the_text_of_their_message() -> None:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]

    assert render(VICUNA, [{"role": "user", "content": parts}]).endswith(" USER: <image>\nWhat? ASSISTANT:")


@pytest.mark.parametrize(
    "message", [{"role": "tool", "content": "42"}, {"role": "user", "content": [{"type": "input_audio"}]}]
)
def test_what_a_prompt_cannot_say_is_the_requests_own_fault(message: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        render(VICUNA, [message])


@pytest.mark.parametrize("answer", [None, [], {"conv": None}, {"conv": {"roles": "x"}}, {"conv": {"sep_style": "one"}}])
def test_what_is_no_template_is_none(answer: object) -> None:
    assert conversation_from(answer) is None


def test_a_style_that_is_not_known_keeps_the_workers_stop_strings() -> None:
    conversation = conversation_from(template(sep_style=99, stop_str="###"))

    assert conversation is not None
    assert conversation.stops == ["###"]
    assert render(conversation, CHAT[1:2]).endswith("USER: Hi ASSISTANT:")
