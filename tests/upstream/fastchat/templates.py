"""Writes all of FastChat's templates, and chats written by each, as JSON. Run by the interpreter of .venv-fastchat."""

import dataclasses
import json
import sys
from typing import Any

from fastchat.conversation import Conversation, conv_templates

CHATS = [
    [{"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": "Be {very} brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello\n\nyou"},
        {"role": "user", "content": "And?"},
    ],
    [
        {"role": "system", "content": ""},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Well?"},
    ],
]


def written(template: Conversation, chat: list[dict[str, str]]) -> str:
    """As FastChat's API server does it."""
    conversation = template.copy()
    for message in chat:
        match message["role"]:
            case "system":
                conversation.set_system_message(message["content"])
            case role:
                conversation.append_message(conversation.roles[role == "assistant"], message["content"])
    conversation.append_message(conversation.roles[1], None)
    return str(conversation.get_prompt())


def described(template: Conversation) -> dict[str, Any]:
    """`style` is the name of the number, `conv` what a worker tells."""
    conv = dataclasses.asdict(template) | {"sep_style": int(template.sep_style)}
    return {
        "style": template.sep_style.name,
        "conv": conv,
        "prompts": [{"chat": chat, "prompt": written(template, chat)} for chat in CHATS],
    }


if __name__ == "__main__":
    # One without a style is for a service that takes chats as they are.
    found = {name: described(template) for name, template in conv_templates.items() if template.sep_style is not None}
    json.dump(found, sys.stdout)
