"""Makes one answer of an OpenAI-compatible engine's stream chunks, fields that nobody here knows included."""

from collections.abc import Sequence
from typing import Any

_REPEATED = frozenset({"role", "id", "type", "name", "finish_reason"})
"""Texts that a later chunk says again or sets; every other text goes on where the last chunk's ended."""
_FIRST_COUNTS = frozenset({"id", "created", "system_fingerprint"})
"""After a move the chunks are another generation's."""


def is_chunk(answer: dict[str, Any]) -> bool:
    """A part of a stream, not a whole answer."""
    choices = answer.get("choices") or [{}]
    return str(answer.get("object", "")).endswith(".chunk") or "delta" in choices[0]


def merge_chunks(kind: str, chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The whole answer; `kind` is what its `object` says.

    Raises: TypeError, AttributeError, KeyError for what are no chunks.
    """
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        answer |= {
            key: value
            for key, value in chunk.items()
            if key != "choices" and value is not None and not (key in _FIRST_COUNTS and key in answer)
        }
        for choice in chunk.get("choices") or []:
            _grow(choices.setdefault(choice["index"], {}), choice)
    for choice in choices.values():
        if "delta" in choice:
            choice["message"] = _whole_message(choice.pop("delta"))
    return answer | {"object": kind, "choices": [choices[index] for index in sorted(choices)]}


def _whole_message(message: dict[str, Any]) -> dict[str, Any]:
    """As OpenAI writes it: with a content, be it null, and the index of a tool's call is its place in the list."""
    for call in message.get("tool_calls") or []:
        call.pop("index", None)
    return {"role": "assistant", "content": None} | message


def _grow(whole: dict[str, Any], news: dict[str, Any]) -> None:
    for key, value in news.items():
        if isinstance(value, dict):
            known = whole.get(key)
            whole[key] = known = known if isinstance(known, dict) else {}
            _grow(known, value)
        elif isinstance(value, list):
            known = whole.get(key)
            whole[key] = known = known if isinstance(known, list) else []
            _grow_list(known, value)
        elif isinstance(value, str) and isinstance(whole.get(key), str) and key not in _REPEATED:
            whole[key] += value
        elif value is not None:
            whole[key] = value
        else:
            whole.setdefault(key, None)


def _grow_list(whole: list[Any], news: list[Any]) -> None:
    """Entries with an index (tool calls) grow; others (logprobs) are added."""
    for entry in news:
        if not isinstance(entry, dict):
            whole.append(entry)
            continue
        index = entry.get("index")
        # Those without one are as many as tokens: they are not looked through.
        known = None if index is None else next((old for old in whole if old.get("index") == index), None)
        if known is None:
            known = {}
            whole.append(known)
        _grow(known, entry)
