"""Chats for bridged workers are written as FastChat itself writes them, by every template that it has."""

import json
from typing import Any

import pytest

from tests.upstream.fastchat.programs import FastChat
from workers_shim.engines.http.prompt import Conversation, conversation_from, render

LEFT_OUT = {"CHATGLM", "RWKV", "METAMATH", "YUAN2"}
"""Styles of a handful of models: chats for them are written as Vicuna's, with a warning."""


@pytest.fixture(scope="module")
def templates(fastchat: FastChat) -> dict[str, Any]:
    process = fastchat.start("tests.upstream.fastchat.templates")
    assert process.wait() == 0, process.output()
    found: dict[str, Any] = json.loads(process.output())
    return found


def conversation_of(template: dict[str, Any]) -> Conversation:
    conversation = conversation_from({"conv": template["conv"]})
    assert conversation is not None, template
    return conversation


def test_chats_are_written_as_fastchat_writes_them(templates: dict[str, Any]) -> None:
    different = [
        (name, sample)
        for name, template in templates.items()
        if template["style"] not in LEFT_OUT
        for sample in template["prompts"]
        if render(conversation_of(template), sample["chat"]) != sample["prompt"]
    ]
    assert different == []
    assert len(templates) > 60


def test_every_style_but_a_few_is_known(templates: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    unknown = set()
    for template in templates.values():
        caplog.clear()
        conversation_from({"conv": template["conv"]})
        if "style not known" in caplog.text:
            unknown.add(template["style"])
    assert unknown == LEFT_OUT
