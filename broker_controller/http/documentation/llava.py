"""LLaVA's and FastChat's endpoints: the controller protocol."""

from broker_controller.errors import (
    AddressRefusedError,
    BadRequestError,
    LoopError,
    OverloadedError,
    RequestTooLargeError,
)
from broker_controller.http.answer_types import (
    Detail,
    Existence,
    FleetStatusAnswer,
    GeneratedText,
    ModelNames,
    TokenUsage,
    WorkerAddress,
    WorkerStatusAnswer,
)
from broker_controller.http.documentation.parts import (
    BOOLEAN,
    COUNT,
    INTEGER,
    MODEL,
    NUMBER,
    RESUME,
    RETRY_AFTER,
    SESSION,
    START_HEADERS,
    STOP,
    TEMPERATURE,
    TEXT,
    TOP_P,
    answer,
    body,
    object_of,
    operation,
    refusals,
)
from broker_controller.http.errors import cumulative_style, detail_style

GENERATE_BODY = body(
    object_of(
        ["model", "prompt"],
        model=TEXT,
        prompt=TEXT,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        max_new_tokens=COUNT,
        stop=STOP,
        images={"type": "array", "items": TEXT, "description": "base64"},
        echo={**BOOLEAN, "default": True, "description": "Whether the text begins with the prompt"},
    ),
    {"model": MODEL, "prompt": "USER: Say hello ASSISTANT:", "temperature": 0.2, "max_new_tokens": 32, "stop": "</s>"},
)
_CODES = (
    "Errors other than a malformed or too large body have status 200 and a code other than 0: 1 the engine raised, "
    "2 no worker serves the model, 3 the worker failed or the time is up; `text` says what happened."
)
_HEADERS = START_HEADERS | {"Retry-After": RETRY_AFTER["Retry-After"] | {"required": False}}
_EXAMPLE = "USER: Say hello ASSISTANT: Hello there"
_GENERATE_REFUSALS = refusals(cumulative_style, GeneratedText, [BadRequestError, RequestTooLargeError, LoopError])
GENERATE_STREAM_ANSWERS = {
    "200": answer(
        "JSON objects, each followed by a NUL byte",
        GeneratedText(_EXAMPLE, 0, TokenUsage(12, 2, 14), "stop"),
        _HEADERS,
        "application/octet-stream",
    ),
    **_GENERATE_REFUSALS,
}
GENERATE_ANSWERS = {
    "200": answer("The whole text", GeneratedText(_EXAMPLE, 0, TokenUsage(12, 2, 14), "stop"), _HEADERS),
    **_GENERATE_REFUSALS,
}
STATUS_ANSWERS = {"200": answer("The status", WorkerStatusAnswer([MODEL], 2.0, 3))}
_FLEET_ANSWERS = {"200": answer("The status", FleetStatusAnswer([MODEL], 2.0, 3, "6b86b273ff34fce1"))}
_BODY_ERRORS = (BadRequestError, RequestTooLargeError, OverloadedError)
_BODY_REFUSED = refusals(detail_style, Detail, _BODY_ERRORS)

GENERATE_STREAM = operation(
    "Stream an answer",
    f"Each object holds the whole text so far. While a request waits, a lone NUL is sent every 5 s. {_CODES}",
    GENERATE_STREAM_ANSWERS,
    GENERATE_BODY,
    parameters=RESUME + SESSION,
)
GENERATE = operation("Give a whole answer", f"FastChat's. {_CODES}", GENERATE_ANSWERS, GENERATE_BODY, RESUME + SESSION)
GET_STATUS = operation(
    "The fleet as if it were one worker",
    "The speeds and queue lengths are sums, so that a controller can register at another one. "
    "`controller` is the id of this process, by which it knows itself.",
    _FLEET_ANSWERS,
)
REGISTER_WORKER = operation(
    "Register an HTTP worker",
    "For workers of the old kind. Without `worker_status` the worker is asked for it.",
    {
        "200": answer("Registered", None),
        **refusals(detail_style, Detail, [*_BODY_ERRORS, AddressRefusedError]),
    },
    body(
        object_of(
            ["worker_name", "check_heart_beat"],
            worker_name={**TEXT, "description": "its URL"},
            check_heart_beat=BOOLEAN,
            worker_status=object_of(
                ["model_names", "speed", "queue_length"],
                model_names={"type": "array", "items": TEXT},
                speed=NUMBER,
                queue_length=INTEGER,
            ),
            multimodal=BOOLEAN,
        ),
        {
            "worker_name": "http://localhost:21002",
            "check_heart_beat": True,
            "worker_status": {"model_names": ["llava-v1.6-7b"], "speed": 1, "queue_length": 0},
        },
    ),
)
REFRESH_ALL_WORKERS = operation(
    "Ask all workers who they are",
    "Answers when all known workers have, or after a second.",
    {"200": answer("Done", None)},
)
_MODELS_ANSWER = {"200": answer("Their names, sorted", ModelNames([MODEL]))}
LIST_MODELS = operation("List the models", "Those that a live worker serves.", _MODELS_ANSWER)
LIST_MULTIMODAL_MODELS = operation("List the models that take images", "FastChat's.", _MODELS_ANSWER)
LIST_LANGUAGE_MODELS = operation("List the models that take no images", "FastChat's.", _MODELS_ANSWER)
GET_WORKER_ADDRESS = operation(
    "Where to call a worker for a model",
    "With the dispatch methods `queue` and `affinity` it is this controller; with the others it is `/worker/<name>` on "
    "it, or the URL of a worker that registered over HTTP. An empty string: no worker serves the model.",
    {"200": answer("The address", WorkerAddress("http://localhost:21001/worker/gpu-1")), **_BODY_REFUSED},
    body(object_of(["model"], model=TEXT), {"model": MODEL}),
)
RECEIVE_HEART_BEAT = operation(
    "An HTTP worker lives",
    "`exist` is false for a worker that should register again.",
    {"200": answer("Whether it is known", Existence(True)), **_BODY_REFUSED},
    body(
        object_of(["worker_name", "queue_length"], worker_name=TEXT, queue_length=INTEGER),
        {"worker_name": "http://localhost:21002", "queue_length": 1},
    ),
)
