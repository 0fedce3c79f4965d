"""Items of a conversation as the Responses API has them: in one form, checked, and as messages of a chat. Pure."""

from typing import Any

from broker_controller.errors import BadRequestError

Item = dict[str, Any]

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
"""Of the Responses API, and what models' templates know."""
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_PASSED_OVER = frozenset({"reasoning"})
"""Items that clients send back from other servers, and that are no part of a chat."""


def as_items(given: str | list[Item], response_id: str) -> list[Item]:
    """Each with a type, an id and, of a message, a list of parts. `response_id`: ids are made of it."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    tail = response_id.removeprefix("resp_")
    return [_as_item(item, f"{tail}_{number}") for number, item in enumerate(given)]


def check_items(items: list[Item]) -> None:
    """Raises: BadRequestError, for what no chat can say."""
    if not items:
        raise BadRequestError("`input` is empty: it has to have a text or an item")
    to_messages(items)


def to_messages(items: list[Item]) -> list[dict[str, Any]]:
    """The messages of a chat. Raises: BadRequestError."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item.get("type"):
            case "message":
                messages.append(_message(item))
            case "function_call":
                _add_call(messages, item)
            case "function_call_output":
                call, output = _text_of(item, "call_id"), item.get("output")
                messages.append({"role": "tool", "tool_call_id": call, "content": _content(output, "user")})
            case str() as kind if kind in _PASSED_OVER:
                continue
            case kind:
                raise BadRequestError(
                    f"an item of type {kind!r} in `input` is not offered here: there are message, function_call and "
                    "function_call_output"
                )
    return messages


def _as_item(item: Item, tail: str) -> Item:
    kind = item.get("type")
    if kind is None and "role" in item:
        kind = "message"
    if kind != "message":
        start = "fco" if kind == "function_call_output" else "fc"
        return {"id": f"{start}_{tail}"} | {name: value for name, value in item.items() if value is not None}
    content = item.get("content")
    if isinstance(content, str):
        part: Item = {"type": "input_text", "text": content}
        if item.get("role") == "assistant":
            part = {"type": "output_text", "text": content, "annotations": []}
        content = [part]
    return {
        "id": item.get("id") or f"msg_{tail}",
        "type": "message",
        "status": item.get("status") or "completed",
        "role": item.get("role"),
        "content": content,
    }


def _message(item: Item) -> dict[str, Any]:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise BadRequestError(f"a message in `input` has the role {role!r}: there are {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": _content(item.get("content"), role)}


def _content(given: Any, role: str) -> str | list[dict[str, Any]]:
    """One text where there are only texts: that is what every engine's template takes."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise BadRequestError("the content of an item in `input` has to be a text or a list of parts")
    parts = [_part(part, role) for part in given]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(part: Any, role: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in _TEXTS:
        return {"type": "text", "text": _text_of(part, _TEXTS[kind])}
    if kind == "input_image" and role != "assistant":
        if not isinstance(part.get("image_url"), str):
            raise BadRequestError("an input_image needs an `image_url`: files are not kept here")
        image = {"url": part["image_url"]}
        if isinstance(part.get("detail"), str):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    raise BadRequestError(f"a part of type {kind!r} in `input` is not offered here: there are texts and images")


def _add_call(messages: list[dict[str, Any]], item: Item) -> None:
    """Calls that follow each other, and the text before them, are one message of a chat."""
    function = {"name": _text_of(item, "name"), "arguments": _text_of(item, "arguments")}
    call = {"id": _text_of(item, "call_id"), "type": "function", "function": function}
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant":
        last = {"role": "assistant", "content": None}
        messages.append(last)
    last.setdefault("tool_calls", []).append(call)


def _text_of(item: Item, name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise BadRequestError(f"`{name}` of an item or part of type {item.get('type')!r} in `input` has to be a text")
    return value
