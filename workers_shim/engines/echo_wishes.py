"""What a request asks of the engine `echo` beyond repeated words: read and checked. Pure.

Used by `echo_openai`. Everything here is said by clients, in OpenAI's fields or in `echo_engine`.
"""

import math
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from broker_wire.messages import Operation
from workers_shim import Request, RequestError
from workers_shim.engines.echo_schema import minimal_instance

FIELD = "echo_engine"
"""What the engine alone reads. `echo` is OpenAI's and LLaVA's: whether the text begins with the prompt."""
SPECIAL = frozenset({FIELD, "n", "logprobs", "response_format", "tools"})
"""Fields with which an answer may be more than repeated words."""
MAX_CHOICES = 128
"""OpenAI's bound of `n`."""
MAX_TOP_LOGPROBS = 20
MAX_TOOLS = 128
"""Both are OpenAI's."""


class Error(StrEnum):
    """How an answer fails: the exceptions of the public API."""

    REQUEST = "request"
    ENGINE = "engine"
    UNAVAILABLE = "unavailable"
    LOST = "lost"


class Behaviour(Struct, frozen=True, forbid_unknown_fields=True):
    """The field `echo_engine`.

    Attributes:
        delay: seconds before the first chunk.
        tokens_per_second: a slower pace than the worker's own.
        fail_after, error: fail so after so many chunks.
        die_after: end the worker's process after so many chunks, where it may.
        reasoning: so many words as `reasoning_content` before the answer.
    """

    delay: float = 0.0
    tokens_per_second: float | None = None
    fail_after: int | None = None
    error: Error = Error.ENGINE
    die_after: int | None = None
    reasoning: int = 0


class Call(Struct, frozen=True):
    """A tool to be called."""

    name: str
    arguments: str


class Wishes(Struct, frozen=True):
    """All of it.

    Attributes:
        choices: the `n` of the request.
        top_logprobs: alternatives to each token, 0 for none; None without logprobs.
        text: the answer, instead of repeated words.
        calls: tools to call, instead of any text.
    """

    choices: int = 1
    top_logprobs: int | None = None
    text: str | None = None
    calls: tuple[Call, ...] = ()
    behaviour: Behaviour = Behaviour()


def read_wishes(request: Request, prompt: str) -> Wishes:
    """Raises: RequestError."""
    is_chat = request.operation is Operation.CHAT
    behaviour = _behaviour(request.parameters.get(FIELD))
    if behaviour.reasoning and not is_chat:
        raise RequestError(f"'{FIELD}.reasoning' is of chats only")
    return Wishes(
        _choices(request),
        _top_logprobs(request),
        _formatted(request.parameters.get("response_format")),
        _calls(request.parameters, prompt) if is_chat else (),
        behaviour,
    )


def _behaviour(field: Any) -> Behaviour:
    if field is None:
        return Behaviour()
    try:
        behaviour = msgspec.convert(field, Behaviour)
    except msgspec.ValidationError as error:
        raise RequestError(f"'{FIELD}' is not understood: {error}") from None
    for name in ("delay", "fail_after", "die_after", "reasoning"):
        if (value := getattr(behaviour, name)) is not None and not 0 <= value < math.inf:
            raise RequestError(f"'{FIELD}.{name}' has to be at least 0, not {value}")
    pace = behaviour.tokens_per_second
    if pace is not None and not 0 < pace < math.inf:
        raise RequestError(f"'{FIELD}.tokens_per_second' has to be more than 0, not {pace}")
    return behaviour


def _choices(request: Request) -> int:
    choices = request.parameters.get("n")
    most = 1 if request.operation is Operation.LLAVA else MAX_CHOICES
    if choices is None:
        return 1
    if isinstance(choices, bool) or not isinstance(choices, int) or not 1 <= choices <= most:
        raise RequestError(f"'n' has to be a whole number from 1 to {most}")
    return choices


def _top_logprobs(request: Request) -> int | None:
    """A chat says whether and how many, in two fields; everybody else in one."""
    logprobs = request.parameters.get("logprobs")
    if logprobs is None or logprobs is False:
        return None
    top = request.parameters.get("top_logprobs") or 0 if logprobs is True else logprobs
    if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= MAX_TOP_LOGPROBS:
        raise RequestError(f"the number of logprobs has to be a whole number from 0 to {MAX_TOP_LOGPROBS}")
    return top


def _formatted(response_format: Any) -> str | None:
    kind = response_format.get("type") if isinstance(response_format, dict) else response_format
    match kind:
        case None | "text":
            return None
        case "json_object":
            return "{}"
        case "json_schema":
            wanted = response_format.get("json_schema")
            schema = wanted.get("schema") if isinstance(wanted, dict) else None
            return _to_json(minimal_instance({} if schema is None else schema))
    raise RequestError("'response_format' has to have the type text, json_object or json_schema")


def _calls(parameters: dict[str, Any], prompt: str) -> tuple[Call, ...]:
    """Those that `tool_choice` names, or a word of the prompt; of several the first, if they may not be parallel."""
    tools = _functions(parameters.get("tools"))
    match parameters.get("tool_choice"):
        case "none":
            return ()
        case {"function": {"name": str(name)}}:
            if name not in tools:
                raise RequestError(f"'tool_choice' names {name!r:.80}, which is not among the tools")
            named = [name]
        case None | "auto":
            named = _named(tools, prompt)
        case "required":
            named = _named(tools, prompt) or list(tools)[:1]
            if not named:
                raise RequestError("'tool_choice' requires a call, and there are no tools")
        case _:
            raise RequestError("'tool_choice' has to be none, auto, required or the name of a function")
    if parameters.get("parallel_tool_calls") is False:
        del named[1:]
    return tuple(Call(name, _to_json(minimal_instance(tools[name]))) for name in named)


def _functions(tools: Any) -> dict[str, Any]:
    """Names to the schemas of their parameters."""
    if tools is None:
        return {}
    if isinstance(tools, list) and len(tools) > MAX_TOOLS:
        raise RequestError(f"'tools' has {len(tools)} of them, {MAX_TOOLS} are taken")
    found = {}
    for tool in tools if isinstance(tools, list) else [None]:
        match tool:
            case {"function": {"name": str(name), **rest}}:
                found[name] = rest.get("parameters") or {}
            case _:
                raise RequestError("'tools' has to be a list of objects that each have a 'function' with a 'name'")
    return found


def _named(tools: dict[str, Any], prompt: str) -> list[str]:
    words = {word.strip(".,:;!?()'\"`") for word in prompt.split()}
    return [name for name in tools if name in words]


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
