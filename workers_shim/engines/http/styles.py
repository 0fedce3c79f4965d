"""How FastChat's separator styles punctuate a chat, and which number means which style. Pure; used by `prompt`.

A number means different styles in FastChat's last release and in the sources after it, where styles were inserted; the
template's own fields tell the two apart. Left out are styles that a handful of old models have each: those that count
rounds (ChatGLM), change the text (RWKV), or know one turn only (CLLM, Yuan).
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto

from msgspec import Struct

Turns = Sequence[tuple[str, str]]
"""(role, text) each."""


class SystemRule(Enum):
    """When the system prompt is written, with what follows it."""

    ALWAYS = auto()
    IF_PROMPT = auto()
    """If the template and its message are not both empty."""
    IF_MESSAGE = auto()


class Parts(Struct, frozen=True):
    """What a style puts together.

    Attributes:
        system_prompt: the template with its message.
        turns: what was said; whoever is to speak now is the second of `roles`.
    """

    system_message: str
    system_prompt: str
    roles: tuple[str, str]
    turns: Turns
    sep: str
    sep2: str

    @property
    def separators(self) -> tuple[str, str]:
        """After the first message, the second, and so on by turns."""
        return self.sep, self.sep2


class Punctuation(Struct, frozen=True):
    """Most styles: they differ in a few characters. Called, it writes the prompt.

    Attributes:
        after_role: between a role and its message.
        opening: after the role whose turn it is to speak.
        system: when the system prompt is written.
        separator_after_system: whether the separator follows it.
        alternate: the second separator follows every second message.
        before_question: before every first of two messages.
        line_ends: after the separators.
        fixed_separator: in place of the template's own.
    """

    after_role: str
    opening: str
    system: SystemRule = SystemRule.ALWAYS
    separator_after_system: bool = True
    alternate: bool = False
    before_question: str = ""
    line_ends: tuple[str, str] = ("", "")
    fixed_separator: str | None = None

    def __call__(self, parts: Parts) -> str:
        written = [self._system(parts)]
        for number, (role, text) in enumerate(parts.turns):
            written.append(self._marked(role, number))
            written.append(f"{self.after_role}{text}{self._separator(parts, number)}" if text else self.opening)
        written += [self._marked(parts.roles[1], len(parts.turns)), self.opening]
        return "".join(written)

    def _system(self, parts: Parts) -> str:
        has = {
            SystemRule.ALWAYS: True,
            SystemRule.IF_PROMPT: bool(parts.system_prompt),
            SystemRule.IF_MESSAGE: bool(parts.system_message),
        }
        if not has[self.system]:
            return ""
        return parts.system_prompt + (parts.sep + self.line_ends[0] if self.separator_after_system else "")

    def _marked(self, role: str, number: int) -> str:
        return role if number % 2 else self.before_question + role

    def _separator(self, parts: Parts, number: int) -> str:
        if self.fixed_separator is not None:
            return self.fixed_separator
        separator = parts.separators[number % 2] if self.alternate else parts.sep
        return separator + self.line_ends[number % 2]


def _llama2(parts: Parts) -> str:
    """The system prompt is a part of the first question; roles are marks that go by turns."""
    written = [parts.system_prompt if parts.system_message else "[INST] "]
    for number, (_, text) in enumerate(parts.turns):
        mark = parts.roles[number % 2]
        if not text:
            written.append(mark)
        elif number == 0:
            written.append(f"{text} ")
        else:
            written.append(f"{mark} {text}{parts.separators[number % 2]}")
    return "".join(written) + parts.roles[len(parts.turns) % 2]


def _llama3(parts: Parts) -> str:
    """Headers around the roles, of special tokens; texts without the space around them."""
    written = ["<|begin_of_text|>", parts.system_prompt if parts.system_message else ""]
    for role, text in (*parts.turns, (parts.roles[1], "")):
        written.append(f"<|start_header_id|>{role}<|end_header_id|>\n\n")
        written.append(f"{text.strip()}<|eot_id|>" if text else "")
    return "".join(written)


_CHATML = Punctuation("\n", "\n", SystemRule.IF_PROMPT, line_ends=("\n", "\n"))
_CHATINTERN = Punctuation(
    ":", ":", separator_after_system=False, alternate=True, before_question="<s>", line_ends=("\n", "\n")
)
_DOLLY = Punctuation(":\n", ":\n", separator_after_system=False, alternate=True, line_ends=("", "\n\n"))
_PHOENIX = Punctuation(": <s>", ": <s>", separator_after_system=False, fixed_separator="</s>")
_ROBIN = Punctuation(":\n", ":\n")
_FALCON = Punctuation(": ", ":", SystemRule.IF_MESSAGE)
_CHATGLM3 = Punctuation("\n", "", SystemRule.IF_MESSAGE, separator_after_system=False, fixed_separator="")
_DEEPSEEK = Punctuation(": ", ":", separator_after_system=False, alternate=True)

Write = Callable[[Parts], str]

# FastChat: fastchat/conversation.py, SeparatorStyle. The first six and Llama 2's have one number in all versions.
_ALL: dict[int, Write] = {
    1: Punctuation(": ", ":"),  # ADD_COLON_SINGLE
    2: Punctuation(": ", ":", alternate=True),  # ADD_COLON_TWO
    3: Punctuation(": ", ": "),  # ADD_COLON_SPACE_SINGLE
    4: Punctuation("", "", separator_after_system=False),  # NO_COLON_SINGLE
    5: Punctuation("", "", separator_after_system=False, alternate=True),  # NO_COLON_TWO
    6: Punctuation("\n", "\n", SystemRule.IF_PROMPT),  # ADD_NEW_LINE_SINGLE
    7: _llama2,
}
RELEASED: dict[int, Write] = _ALL | {
    9: _CHATML, 10: _CHATINTERN, 11: _DOLLY, 13: _PHOENIX, 14: _ROBIN, 15: _FALCON, 16: _CHATGLM3, 17: _DEEPSEEK,
}  # fmt: skip
"""Of FastChat 0.2.36, the last release."""
LATER: dict[int, Write] = _ALL | {
    8: _llama3, 10: _CHATML, 11: _CHATINTERN, 12: _DOLLY, 14: _PHOENIX, 15: _ROBIN, 16: _FALCON, 17: _CHATGLM3,
    18: _DEEPSEEK,
}  # fmt: skip
"""Of the sources after it."""
