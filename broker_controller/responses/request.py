"""What a client asks for at `/v1/responses`, read and checked. Pure.

What would change the meaning of a request and cannot be done here is refused by name; what is only a wish (a tier) is
passed over; what OpenAI does not know (`seed`, `top_k`, a vendor's own) is for the engine.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from broker_controller.errors import BadRequestError
from broker_controller.responses.items import as_items, check_items

MAX_METADATA = 16
"""OpenAI's bound of pairs."""
MAX_TOP_LOGPROBS = 20
"""OpenAI's."""
LOGPROBS = "message.output_text.logprobs"
"""What to `include` for them."""
ENGINES_OWN = "engines_own"
"""Among a response's fields, what is for the engine alone: it is kept, and not repeated."""
_PASSED_OVER = frozenset(
    {
        "context_management",
        "max_tool_calls",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "stream_options",
        "truncation",
    }
)
"""OpenAI's, too."""


class ResponseBody(Struct):
    """`/v1/responses`."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=MAX_METADATA)] | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    n: Any = None

    @property
    def stores(self) -> bool:
        """OpenAI's default is true; what runs in the background is kept in any case."""
        return self.store is not False


_KNOWN = frozenset(ResponseBody.__struct_fields__)


class Asked(Struct, frozen=True):
    """A request that can be answered.

    Attributes:
        fields: what the response repeats of it.
        items: its input, each item with a type, an id and a list of parts.
    """

    body: ResponseBody
    fields: dict[str, Any]
    items: list[dict[str, Any]]


def engines_own(raw: bytes) -> dict[str, Any]:
    """The fields of a body that are none of this API, of one that `ResponseBody` was read from."""
    fields = msgspec.json.decode(raw, type=dict[str, Any])
    return {name: value for name, value in fields.items() if name not in _PASSED_OVER and name not in _KNOWN}


def check(body: ResponseBody, response_id: str, own: Mapping[str, Any] = MappingProxyType({})) -> Asked:
    """`own`: what is for the engine alone. Raises: BadRequestError."""
    for name in ("conversation", "prompt"):
        if getattr(body, name) is not None:
            raise BadRequestError(f"`{name}` is not offered here: send the input itself, or a previous_response_id")
    if body.n not in (None, 1):
        raise BadRequestError("`n` is not offered here: a response has one answer")
    if body.background and not body.stores:
        raise BadRequestError("`background` needs `store`: a response that nobody keeps cannot be fetched later")
    items = as_items(body.input, response_id)
    check_items(items)
    tools = [_check_tool(tool) for tool in body.tools or []]
    return Asked(
        body,
        {
            "model": body.model,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "tools": tools,
            "tool_choice": _check_tool_choice(body.tool_choice),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "text": {"format": _check_format(body.text)},
            "reasoning": {"effort": (body.reasoning or {}).get("effort"), "summary": None},
            "metadata": body.metadata or {},
            "top_logprobs": _top_logprobs(body),
            "user": body.user,
            "prompt_cache_key": body.prompt_cache_key,
            "store": body.stores,
            "background": bool(body.background),
            "previous_response_id": body.previous_response_id,
            "truncation": "disabled",
            ENGINES_OWN: dict(own),
        },
        items,
    )


def encode_fields(asked: Asked) -> bytes:
    """As they are kept."""
    return msgspec.json.encode(asked.fields)


def _top_logprobs(body: ResponseBody) -> int | None:
    """None where no logprobs are wanted; OpenAI's clients ask for those of the tokens alone by `include`."""
    if body.top_logprobs is None and LOGPROBS in (body.include or []):
        return 0
    return body.top_logprobs


def _check_tool(tool: dict[str, Any]) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        raise BadRequestError(f"the tool {kind!r} is not offered here: a worker knows tools of type 'function' alone")
    name, parameters = tool.get("name"), tool.get("parameters")
    if not isinstance(name, str) or not name:
        raise BadRequestError("a tool of type 'function' needs a `name`")
    if parameters is not None and not isinstance(parameters, dict):
        raise BadRequestError(f"the `parameters` of tool {name!r} have to be a JSON schema")
    strict = tool.get("strict")
    description = tool.get("description")
    return {
        "type": "function",
        "name": name,
        "description": description,
        "parameters": parameters,
        "strict": strict if isinstance(strict, bool) else None,
    }


def _check_tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any]:
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise BadRequestError(f"`tool_choice` has to be auto, none, required or a function, not {choice[:40]!r}")
        return choice
    name = choice.get("name")
    if choice.get("type") != "function" or not isinstance(name, str):
        raise BadRequestError(f"the `tool_choice` {choice.get('type')!r} is not offered here: name a function")
    return {"type": "function", "name": name}


def _check_format(text: dict[str, Any] | None) -> dict[str, Any]:
    form = (text or {}).get("format")
    if form is None:
        return {"type": "text"}
    kind = form.get("type") if isinstance(form, dict) else None
    if kind in ("text", "json_object"):
        return {"type": kind}
    if kind != "json_schema" or not isinstance(form.get("schema"), dict) or not isinstance(form.get("name"), str):
        raise BadRequestError("`text.format` has to be text, json_object, or json_schema with a `name` and a `schema`")
    return {name: form.get(name) for name in ("type", "name", "description", "schema", "strict")}
