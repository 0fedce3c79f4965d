"""What `/docs` says of each endpoint: summary, the body's fields, examples of bodies and answers. Data only.

The schemas name the usual fields; whatever else a client sends reaches the engine untouched.
"""

from typing import Any

import msgspec

from broker_controller.error_docs import EXAMPLES
from broker_controller.errors import (
    BadRequestError,
    BrokerUnavailableError,
    DeadlineError,
    ModelNotFoundError,
    QueueFullError,
    RequestTooLargeError,
    WorkerLostError,
    meaning_of,
)
from broker_controller.http.errors import openai_error

Operation = dict[str, Any]

_MODEL = "smollm2-135m-instruct"
_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_BOOLEAN = {"type": "boolean"}
_STOP = {"oneOf": [_TEXT, {"type": "array", "items": _TEXT}]}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _answer(description: str, media_type: str, example: Any, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema or {}, "example": example}}}


def _json_answer(description: str, example: Any) -> dict[str, Any]:
    # An example that is null would be left out of the document.
    return _answer(description, "application/json", example, {"type": "null"} if example is None else None)


def _streamed(answer: dict[str, Any], example: str) -> dict[str, Any]:
    """The answer, or with `stream` its events: the schema is that of one event."""
    events = {"text/event-stream": {"schema": _object(["data"], data=_TEXT), "example": example}}
    return {**answer, "content": {**answer["content"], **events}}


def _operation(
    summary: str,
    description: str,
    answers: dict[str, Any],
    body: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> Operation:
    operation: Operation = {"summary": summary, "description": description, "responses": answers}
    if body is not None:
        operation["requestBody"] = body
    if parameters is not None:
        operation["parameters"] = parameters
    return operation


def _openai_errors(*statuses: int) -> dict[str, Any]:
    return {str(status): _json_answer(*_OPENAI_ERRORS[status]) for status in statuses}


_EXAMPLES = {type(example): example for example in EXAMPLES}
_OPENAI_ERRORS: dict[int, tuple[str, Any]] = {
    meaning_of(_EXAMPLES[kind]).status: (
        (kind.__doc__ or "").strip(),
        msgspec.json.decode(openai_error(_EXAMPLES[kind])),
    )
    for kind in (
        BadRequestError,
        ModelNotFoundError,
        RequestTooLargeError,
        QueueFullError,
        WorkerLostError,
        BrokerUnavailableError,
        DeadlineError,
    )
}
_BAD_REQUEST = {
    "400": _json_answer("The request is wrong", {"detail": "the body of the request is not JSON"}),
    "413": _json_answer("The body is too large", {"detail": "the body has too many bytes"}),
}
_BAD_GENERATE = {
    "400": _json_answer("The request is wrong", {"text": "the body of the request is not JSON", "error_code": 1}),
    "413": _json_answer("The body is too large", {"text": "the body has too many bytes", "error_code": 1}),
}

RESUME = [
    {
        "name": "X-Resume",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "enum": ["never", "prefix", "replay"]},
        "description": "How an answer that has begun goes on when its worker is lost: not at all, from its text, or by "
        "generating it again, compared with what the client has. Without it the model decides.",
    }
]

# --- OpenAI ------------------------------------------------------------------------------------------------------

_SAMPLING = {
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "max_tokens": _INTEGER,
    "stop": _STOP,
    "seed": _INTEGER,
    "n": _INTEGER,
    "stream": {**_BOOLEAN, "default": False},
    "stream_options": {"type": "object", "properties": {"include_usage": _BOOLEAN}},
}
_USAGE = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
_STREAMED = (
    "With `stream` it is server-sent events, the last one `data: [DONE]`. The status and the headers `X-Worker`, "
    "`X-Attempts` and `X-Queue-Time` (seconds) wait for a worker to start, 5 s at most; an error after that is an "
    'event `data: {"error": …}`.'
)

_CHAT_EVENTS = """\
data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[…]}

data: [DONE]

"""
_COMPLETION_EVENTS = """\
data: {"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"m","choices":[…]}

data: [DONE]

"""

CHAT_COMPLETIONS = _operation(
    "Answer a chat",
    f"OpenAI's chat completions. {_STREAMED}",
    {
        "200": _streamed(
            _json_answer(
                "The answer",
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": 1700000000,
                    "model": _MODEL,
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": "Hello there"},
                            "logprobs": None,
                            "finish_reason": "stop",
                        }
                    ],
                    "usage": _USAGE,
                },
            ),
            _CHAT_EVENTS,
        ),
        **_openai_errors(400, 404, 413, 429, 502, 503, 504),
    },
    _body(
        _object(
            ["model", "messages"],
            model=_TEXT,
            messages={"type": "array", "minItems": 1, "items": _object(["role"], role=_TEXT, content={})},
            **_SAMPLING,
        ),
        {"model": _MODEL, "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 32, "stream": True},
    ),
    parameters=RESUME,
)

COMPLETIONS = _operation(
    "Go on with a text",
    f"OpenAI's completions. {_STREAMED}",
    {
        "200": _streamed(
            _json_answer(
                "The answer",
                {
                    "id": "cmpl-1",
                    "object": "text_completion",
                    "created": 1700000000,
                    "model": _MODEL,
                    "choices": [{"index": 0, "text": " upon a time", "logprobs": None, "finish_reason": "length"}],
                    "usage": _USAGE,
                },
            ),
            _COMPLETION_EVENTS,
        ),
        **_openai_errors(400, 404, 413, 429, 502, 503, 504),
    },
    _body(
        _object(
            ["model", "prompt"],
            model=_TEXT,
            prompt={"oneOf": [_TEXT, {"type": "array", "items": {}}]},
            **_SAMPLING,
        ),
        {"model": _MODEL, "prompt": "Once", "max_tokens": 32},
    ),
    parameters=RESUME,
)

_MODEL_OBJECT = {
    "id": _MODEL,
    "created": 1700000000,
    "object": "model",
    "owned_by": "broker-controller",
    "abilities": ["chat", "completion"],
    "context_length": 2048,
}
MODELS = {"responses": {"200": _json_answer("The models", {"object": "list", "data": [_MODEL_OBJECT]})}}
ONE_MODEL = {"responses": {"200": _json_answer("The model", _MODEL_OBJECT), **_openai_errors(404)}}

# --- LLaVA and FastChat ------------------------------------------------------------------------------------------

_GENERATE_BODY = _body(
    _object(
        ["model", "prompt"],
        model=_TEXT,
        prompt=_TEXT,
        temperature=_NUMBER,
        top_p=_NUMBER,
        max_new_tokens=_INTEGER,
        stop=_STOP,
        images={"type": "array", "items": _TEXT, "description": "base64"},
        echo={**_BOOLEAN, "default": True, "description": "Whether the text begins with the prompt"},
    ),
    {"model": _MODEL, "prompt": "USER: Say hello ASSISTANT:", "temperature": 0.2, "max_new_tokens": 32, "stop": "</s>"},
)
_LAST_OBJECT = {
    "text": "USER: Say hello ASSISTANT: Hello there",
    "error_code": 0,
    "usage": _USAGE,
    "finish_reason": "stop",
}
_CODES = (
    "Errors other than a malformed or too large body have status 200 and a code other than 0: 1 the engine raised, "
    "2 no worker serves the model, 3 the worker failed or the time is up; `text` says what happened."
)
_GENERATE_STREAM_ANSWERS = {
    "200": _answer(
        "JSON objects, each followed by a NUL byte",
        "application/octet-stream",
        '{"text": "USER: Say hello ASSISTANT: Hello", "error_code": 0}\\0',
        _object(["text", "error_code"], text=_TEXT, error_code=_INTEGER, finish_reason=_TEXT, usage={"type": "object"}),
    ),
    **_BAD_GENERATE,
}
_GENERATE_ANSWERS = {"200": _json_answer("The whole text", _LAST_OBJECT), **_BAD_GENERATE}
_STATUS_ANSWERS = {"200": _json_answer("The status", {"model_names": [_MODEL], "speed": 2, "queue_length": 3})}

GENERATE_STREAM = _operation(
    "Stream an answer",
    f"Each object holds the whole text so far. While a request waits, a lone NUL is sent every 5 s. {_CODES}",
    _GENERATE_STREAM_ANSWERS,
    _GENERATE_BODY,
    parameters=RESUME,
)
GENERATE = _operation("Give a whole answer", f"FastChat's. {_CODES}", _GENERATE_ANSWERS, _GENERATE_BODY, RESUME)
GET_STATUS = _operation(
    "The fleet as if it were one worker",
    "The speeds and queue lengths are sums, so that a controller can register at another one.",
    _STATUS_ANSWERS,
)
REGISTER_WORKER = _operation(
    "Register an HTTP worker",
    "For workers of the old kind. Without `worker_status` the worker is asked for it.",
    {
        "200": _json_answer("Registered", None),
        **_BAD_REQUEST,
        "403": _json_answer("Not from this address", {"detail": "worker 'http://…' may not register"}),
    },
    _body(
        _object(
            ["worker_name", "check_heart_beat"],
            worker_name={**_TEXT, "description": "its URL"},
            check_heart_beat=_BOOLEAN,
            worker_status=_object(
                ["model_names", "speed", "queue_length"],
                model_names={"type": "array", "items": _TEXT},
                speed=_NUMBER,
                queue_length=_INTEGER,
            ),
            multimodal=_BOOLEAN,
        ),
        {
            "worker_name": "http://localhost:21002",
            "check_heart_beat": True,
            "worker_status": {"model_names": ["llava-v1.6-7b"], "speed": 1, "queue_length": 0},
        },
    ),
)
REFRESH_ALL_WORKERS = _operation(
    "Ask all workers who they are",
    "Answers when all known workers have, or after a second.",
    {"200": _json_answer("Done", None)},
)
_MODELS_ANSWER = {"200": _json_answer("Their names, sorted", {"models": [_MODEL]})}
LIST_MODELS = _operation("List the models", "Those that a live worker serves.", _MODELS_ANSWER)
LIST_MULTIMODAL_MODELS = _operation("List the models that take images", "FastChat's.", _MODELS_ANSWER)
LIST_LANGUAGE_MODELS = _operation("List the models that take no images", "FastChat's.", _MODELS_ANSWER)
GET_WORKER_ADDRESS = _operation(
    "Where to call a worker for a model",
    "With the dispatch method `queue` it is this controller; with the others it is `/worker/<name>` on it, or the URL "
    "of a worker that registered over HTTP. An empty string: no worker serves the model.",
    {"200": _json_answer("The address", {"address": "http://localhost:21001/worker/gpu-1"}), **_BAD_REQUEST},
    _body(_object(["model"], model=_TEXT), {"model": _MODEL}),
)
RECEIVE_HEART_BEAT = _operation(
    "An HTTP worker lives",
    "`exist` is false for a worker that should register again.",
    {"200": _json_answer("Whether it is known", {"exist": True}), **_BAD_REQUEST},
    _body(
        _object(["worker_name", "queue_length"], worker_name=_TEXT, queue_length=_INTEGER),
        {"worker_name": "http://localhost:21002", "queue_length": 1},
    ),
)

# --- one worker --------------------------------------------------------------------------------------------------

_NAME = [{"name": "name", "in": "path", "required": True, "schema": _TEXT, "description": "the worker's name"}]
ONE_GENERATE_STREAM = _operation(
    "Stream an answer of this worker",
    GENERATE_STREAM["description"],
    _GENERATE_STREAM_ANSWERS,
    _GENERATE_BODY,
    _NAME + RESUME,
)
ONE_GENERATE = _operation(
    "Give a whole answer of this worker", GENERATE["description"], _GENERATE_ANSWERS, _GENERATE_BODY, _NAME + RESUME
)
ONE_GET_STATUS = _operation(
    "This worker's status",
    "As the worker itself would answer.",
    {
        **_STATUS_ANSWERS,
        "400": _json_answer("No name of a worker", {"detail": "worker name 'gpu 9' is refused"}),
        "404": _json_answer("No such worker", {"detail": "there is no worker 'gpu-9' here"}),
    },
    parameters=_NAME,
)

# --- operations --------------------------------------------------------------------------------------------------

HEALTHZ = {"responses": {"200": _json_answer("It lives", {"status": "ok"})}}
READYZ = {
    "responses": {
        "200": _json_answer("It takes requests", {"ready": True, "reasons": []}),
        "503": _json_answer("It takes none", {"ready": False, "reasons": ["nothing listens at localhost:5672"]}),
    }
}
STATUS = {
    "responses": {
        "200": _json_answer(
            "What is going on",
            {
                "controller": {"id": "5f0c", "dispatch_method": "queue", "ready": True, "reasons": []},
                "broker": {"connected": True, "blocked": False, "problem": None, "version": "4.0.5"},
                "workers": [{"name": "gpu-1", "state": "ready", "slots": 4, "free": 3, "running": 1}],
                "http_workers": [{"worker": "http://10.0.0.7:21002", "state": "bridging", "models": ["llava"]}],
                "models": [{"name": _MODEL, "workers": 1, "slots": 4, "free": 3, "queue_length": 0}],
                "streams": {
                    "running": 1,
                    "waiting": 1,
                    "finished": 17,
                    "failed": 0,
                    "inflight_bytes": 812,
                    "waiting_requests": [
                        {"request_id": "4f1c", "model": _MODEL, "place": 1, "of": 1, "forecast_seconds": 2.5}
                    ],
                },
                "garbage": {},
                "process": {"tasks": 21, "open_files": 17, "threads": 2, "resident_bytes": 61440000},
            },
        )
    }
}
TEST_CONNECTION = {"responses": {"200": _json_answer("It answers", "success")}}
