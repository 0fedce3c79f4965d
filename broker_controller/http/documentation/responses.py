"""OpenAI's Responses API. The schema names what is understood; docs/responses.md says what each is for."""

from typing import Any

from broker_controller.errors import (
    MEANINGS,
    AddressRefusedError,
    AnswerTooLargeError,
    BadRequestError,
    BrokerUnavailableError,
    InternalError,
    NoSuchPathError,
    ResponseNotFoundError,
    WorkerNotFoundError,
    WrongMethodError,
)
from broker_controller.http.answer_types import OpenAIError
from broker_controller.http.documentation.parts import (
    BOOLEAN,
    COUNT,
    MODEL,
    RESUME,
    START_HEADERS,
    TEMPERATURE,
    TEXT,
    TOP_P,
    answer,
    body,
    object_of,
    operation,
    refusals,
    with_events,
)
from broker_controller.http.errors import openai_style
from broker_controller.http.response_types import DeletedResponse, InputItems, ResponseEvent, ResponseObject

_ID = "resp_61b0"
_MESSAGE = {
    "id": "msg_61b0",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}],
}
_USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 14,
}
_RESPONSE = ResponseObject(
    _ID, "response", 1700000000, "completed", MODEL, [_MESSAGE], False, True, None, None, None, _USAGE
)
_EVENTS = """\
id: 0
event: response.created
data: {"type":"response.created","sequence_number":0,"response":{…}}

id: 4
event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_61b0","output_index":0,"delta":"Hello"}

"""
_STREAMED = (
    "With `stream` it is server-sent events; the last one is `response.completed`, `response.incomplete` or "
    "`response.failed`. A response that was cancelled ends with `response.incomplete` and the status `cancelled`."
)
_NULL: dict[str, Any] = {"type": "null"}


def _optional(kind: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [kind, _NULL]}


_PART = {
    "anyOf": [
        object_of(["type", "text"], type={"enum": ["input_text", "output_text"]}, text=TEXT),
        object_of(["type", "image_url"], type={"const": "input_image"}, image_url=TEXT),
    ]
}
_CONTENT = {"anyOf": [TEXT, {"type": "array", "minItems": 1, "items": _PART}]}
_ROLE = {"enum": ["user", "assistant", "system", "developer"]}
_ITEM = {
    "anyOf": [
        object_of(["role", "content"], type={"const": "message"}, role=_ROLE, content=_CONTENT),
        object_of(
            ["type", "call_id", "name", "arguments"],
            type={"const": "function_call"},
            call_id=TEXT,
            name=TEXT,
            arguments=TEXT,
        ),
        object_of(["type", "call_id", "output"], type={"const": "function_call_output"}, call_id=TEXT, output=_CONTENT),
    ]
}
_FUNCTION = object_of(["type", "name"], type={"const": "function"}, name={**TEXT, "minLength": 1})
_TOOL = {**_FUNCTION, "properties": _FUNCTION["properties"] | {"parameters": {"type": "object"}}}
_SCHEMA = object_of(["type", "name", "schema"], type={"const": "json_schema"}, name=TEXT, schema={"type": "object"})
_FORMAT = {"anyOf": [object_of(["type"], type={"enum": ["text", "json_object"]}), _SCHEMA]}

_NOT_HERE = (AddressRefusedError, AnswerTooLargeError, NoSuchPathError, WorkerNotFoundError, WrongMethodError)
_NOT_KEPT = (ResponseNotFoundError, BrokerUnavailableError, InternalError)
_CREATE_ERRORS = refusals(
    openai_style,
    OpenAIError,
    [kind for kind in MEANINGS if kind not in _NOT_HERE and kind is not ResponseNotFoundError],
)
_ERRORS = refusals(openai_style, OpenAIError, _NOT_KEPT)
_CHANGE_ERRORS = refusals(openai_style, OpenAIError, (BadRequestError, *_NOT_KEPT))
_PATH = {"name": "response_id", "in": "path", "required": True, "schema": TEXT, "example": _ID}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


CREATE = operation(
    "Create a response",
    f"OpenAI's Responses API. {_STREAMED} With `background` it goes on without its client, and is fetched by its id.",
    {"200": with_events(answer("The response", _RESPONSE, START_HEADERS), ResponseEvent, _EVENTS), **_CREATE_ERRORS},
    body(
        object_of(
            ["model", "input"],
            model=TEXT,
            input={"oneOf": [TEXT, {"type": "array", "minItems": 1, "items": _ITEM}]},
            instructions=_optional(TEXT),
            max_output_tokens=_optional(COUNT),
            temperature=_optional(TEMPERATURE),
            top_p=_optional(TOP_P),
            tools={"type": "array", "items": _TOOL},
            tool_choice={"anyOf": [{"enum": ["auto", "none", "required"]}, _FUNCTION]},
            parallel_tool_calls=_optional(BOOLEAN),
            text=_optional(object_of([], format=_FORMAT)),
            metadata=_optional({"type": "object", "additionalProperties": TEXT, "maxProperties": 16}),
            include={"type": "array", "items": TEXT},
            top_logprobs=_optional({"type": "integer", "minimum": 0, "maximum": 20}),
            user=_optional(TEXT),
            prompt_cache_key=_optional(TEXT),
            store={**_optional(BOOLEAN), "default": True},
            background={**_optional(BOOLEAN), "default": False},
            stream={**_optional(BOOLEAN), "default": False},
            previous_response_id=_optional(TEXT),
        ),
        {"model": MODEL, "input": "Say hello", "max_output_tokens": 32, "background": True},
    ),
    RESUME,
)

GET = operation(
    "Fetch a response",
    f"A response that is kept, from any controller, whoever runs it. {_STREAMED}",
    {"200": with_events(answer("The response", _RESPONSE), ResponseEvent, _EVENTS), **_CHANGE_ERRORS},
    parameters=[
        _PATH,
        _query("stream", BOOLEAN, "Its events, as they come."),
        _query("starting_after", {"type": "integer", "minimum": 0}, "Only those with a higher `sequence_number`."),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": "^[0-9]+$"},
            "description": "The same, as browsers send it.",
        },
    ],
)

DELETE = operation(
    "Delete a response",
    "It is not kept any more, at any controller; one that still runs is stopped.",
    {"200": answer("It is deleted", DeletedResponse(_ID, "response", True)), **_ERRORS},
    parameters=[_PATH],
)

CANCEL = operation(
    "Cancel a response",
    "Of one in the background. One that is over stays as it is.",
    {"200": answer("The response", _RESPONSE), **_CHANGE_ERRORS},
    parameters=[_PATH],
)

INPUT_ITEMS = operation(
    "What a response was made of",
    "The items of its conversation and its input.",
    {"200": answer("The items", InputItems("list", [_MESSAGE], "msg_61b0", "msg_61b0", False)), **_CHANGE_ERRORS},
    parameters=[
        _PATH,
        _query("order", {"type": "string", "enum": ["asc", "desc"]}, "desc: the last first."),
        _query("after", TEXT, "Only those after the item with this id."),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}, "Items at most."),
    ],
)
