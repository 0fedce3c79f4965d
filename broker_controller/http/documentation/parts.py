"""What the description of an endpoint is made of. Used by the modules beside it, and by `app` for the schemas.

The schema of an answer is that of its example's type; the errors of an endpoint come from the table of errors and from
the function that writes them.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from broker_controller.error_docs import EXAMPLES
from broker_controller.errors import ServiceError
from broker_controller.http.answer_types import ANSWERS, OpenAIError
from broker_controller.http.errors import ErrorStyle

Operation = dict[str, Any]
Part = dict[str, Any]

MODEL = "smollm2-135m-instruct"
TEXT: Part = {"type": "string"}
NUMBER: Part = {"type": "number"}
INTEGER: Part = {"type": "integer"}
BOOLEAN: Part = {"type": "boolean"}
COUNT: Part = {"type": "integer", "minimum": 1}
TEMPERATURE: Part = {"type": "number", "minimum": 0}
TOP_P: Part = {"type": "number", "minimum": 0, "maximum": 1}
STOP: Part = {"oneOf": [TEXT, {"type": "array", "items": TEXT}]}

_EXAMPLES = {type(example): example for example in EXAMPLES}
_SCHEMAS = "#/components/schemas/{name}"

REQUEST_ID: Part = {
    "X-Request-Id": {
        "required": True,
        "schema": TEXT,
        "description": "The client's own, or a new one. It is in the logs of the controller and the worker.",
    }
}
RETRY_AFTER: Part = {
    "Retry-After": {
        "required": True,
        "schema": COUNT,
        "description": "Seconds after which it may be worth trying again.",
    }
}
_SHOULD_RETRY: Part = {
    "X-Should-Retry": {
        "schema": {"const": "false"},
        "description": "OpenAI's clients do not send the request again: it would fail again.",
    }
}
START_HEADERS: Part = {
    "X-Worker": {"schema": TEXT, "description": "The worker that started it, percent-encoded."},
    "X-Attempts": {"schema": COUNT, "description": "1, or more where workers were lost."},
    "X-Queue-Time": {"schema": {"type": "number", "minimum": 0}, "description": "Seconds until a worker started it."},
    "X-Overhead-Ms": {
        "schema": {"type": "number"},
        "description": "Milliseconds that the controller itself took: from the request to the broker, and back.",
    },
}
"""Absent where no worker had started it when the headers were sent; the last one where there was no chunk yet."""

RESUME: list[Part] = [
    {
        "name": "X-Resume",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "enum": ["never", "prefix", "replay"]},
        "description": "How an answer that has begun goes on when its worker is lost: not at all, from its text, or by "
        "generating it again, compared with what the client has. Without it the model decides.",
    }
]
SESSION: list[Part] = [
    {
        "name": "X-Session-Id",
        "in": "header",
        "required": False,
        "schema": TEXT,
        "description": "With the dispatch method `affinity`: requests of one session prefer one worker, whose KV cache "
        "has their beginning. Without it `prompt_cache_key`, `user` or the text itself tells what belongs together.",
    }
]

WORKER_NAME: list[Part] = [
    {"name": "name", "in": "path", "required": True, "schema": TEXT, "description": "the worker's name"}
]


def components() -> dict[str, Part]:
    """The schemas of all answers, by name."""
    return msgspec.json.schema_components(ANSWERS, ref_template=_SCHEMAS)[1]


def schema_of(kind: type[Struct]) -> Part:
    """A reference to one of them, which has to be in ANSWERS."""
    return {"$ref": _SCHEMAS.format(name=kind.__name__)}


def object_of(required: list[str], **properties: Any) -> Part:
    """The schema of an object."""
    return {"type": "object", "required": required, "properties": properties}


def body(schema: Part, example: Part) -> Part:
    """The body of a request."""
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def answer(
    description: str, example: Struct | str | None, headers: Part | None = None, media_type: str = "application/json"
) -> Part:
    """One answer, with the schema of its example."""
    if isinstance(example, Struct):
        content = {"schema": schema_of(type(example)), "example": msgspec.to_builtins(example)}
    else:
        # An example that is null would be left out of the document.
        content = {"schema": {"type": "null"} if example is None else TEXT, "example": example}
    return {"description": description, "headers": REQUEST_ID | (headers or {}), "content": {media_type: content}}


def with_events(whole: Part, kind: type[Struct], example: str) -> Part:
    """The answer, or with `stream` its events: the schema is that of one event, with `kind` as its data."""
    content = {"anyOf": [schema_of(kind), schema_of(OpenAIError)]}
    data = {"anyOf": [{"const": "[DONE]"}, TEXT | {"contentMediaType": "application/json", "contentSchema": content}]}
    events = {"text/event-stream": {"schema": object_of(["data"], data=data), "example": example}}
    return whole | {"content": whole["content"] | events}


def with_errors(whole: Part, form: type[Struct]) -> Part:
    """The answer, or with the same status an error in this form."""
    content = {
        media_type: said | {"schema": {"anyOf": [said["schema"], schema_of(form)]}}
        for media_type, said in whole["content"].items()
    }
    return whole | {"content": content}


def refusals(style: ErrorStyle, form: type[Struct], kinds: Iterable[type[ServiceError]]) -> dict[str, Part]:
    """The answers to these errors, by status, as `style` writes them in `form`."""
    answers: dict[str, Part] = {}
    for kind in kinds:
        sentence = inspect.cleandoc(kind.__doc__ or "")
        error = style(_EXAMPLES[kind])
        example = {"summary": sentence, "value": msgspec.json.decode(error.body)}
        one = answers.get(str(error.status))
        if one is None:
            sent = {name for name, _ in error.headers}
            headers = REQUEST_ID | (RETRY_AFTER if b"retry-after" in sent else {})
            headers |= _SHOULD_RETRY if b"x-should-retry" in sent else {}
            content = {error.content_type.decode(): {"schema": schema_of(form), "examples": {kind.__name__: example}}}
            answers[str(error.status)] = {"description": sentence, "headers": headers, "content": content}
        else:
            one["description"] += f" {sentence}"
            one["content"][error.content_type.decode()]["examples"][kind.__name__] = example
    return answers


def operation(
    summary: str,
    description: str,
    answers: dict[str, Part],
    request: Part | None = None,
    parameters: list[Part] | None = None,
) -> Operation:
    """All of one endpoint; `request` is its `body`."""
    whole: Operation = {"summary": summary, "description": description, "responses": answers}
    if request is not None:
        whole["requestBody"] = request
    if parameters is not None:
        whole["parameters"] = parameters
    return whole
