"""A response as the chat that a worker answers. Pure."""

import hashlib
from typing import Any

import msgspec

from broker_controller.responses.items import Item, to_messages
from broker_controller.responses.request import ENGINES_OWN

_SAME_NAME = ("temperature", "top_p", "user", "prompt_cache_key")


def chat_body(response_id: str, fields: dict[str, Any], items: list[Item]) -> bytes:
    """The body of a chat completion.

    Args:
        fields: as `request.check` gives them.
        items: the whole conversation.

    Raises: BadRequestError.
    """
    messages = to_messages(items)
    if fields.get("instructions"):
        messages.insert(0, {"role": "system", "content": fields["instructions"]})
    body: dict[str, Any] = {
        **fields[ENGINES_OWN],
        "model": fields["model"],
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= {name: fields[name] for name in _SAME_NAME if fields.get(name) is not None}
    if fields.get("max_output_tokens") is not None:
        body["max_tokens"] = fields["max_output_tokens"]
    if fields["reasoning"]["effort"] is not None:
        body["reasoning_effort"] = fields["reasoning"]["effort"]
    if fields["tools"]:
        body["tools"] = [_tool(tool) for tool in fields["tools"]]
        body["tool_choice"] = _tool_choice(fields["tool_choice"])
        body["parallel_tool_calls"] = fields["parallel_tool_calls"]
    form = fields["text"]["format"]
    if form["type"] == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type" and value is not None}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form["type"] == "json_object":
        body["response_format"] = form
    if fields["top_logprobs"] is not None:
        body |= {"logprobs": True, "top_logprobs": fields["top_logprobs"]}
    if fields["background"] and body.get("seed") is None:
        # A controller that takes it over has another number for it: what is drawn must not depend on that.
        body["seed"] = _seed(response_id)
    return msgspec.json.encode(body)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    return choice if isinstance(choice, str) else {"type": "function", "function": {"name": choice["name"]}}


def _seed(response_id: str) -> int:
    """31 bits, as `Request.default_seed`."""
    return int.from_bytes(hashlib.blake2b(response_id.encode(), digest_size=4).digest()) >> 1
