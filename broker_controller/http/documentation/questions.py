"""FastChat's endpoints that are no generation, for any worker of a model and for one."""

from broker_controller.errors import BadRequestError, LoopError, RequestTooLargeError
from broker_controller.http.answer_types import GeneratedText
from broker_controller.http.documentation.parts import (
    MODEL,
    RESUME,
    START_HEADERS,
    TEXT,
    WORKER_NAME,
    Operation,
    Part,
    answer,
    body,
    object_of,
    operation,
    refusals,
    with_errors,
)
from broker_controller.http.errors import cumulative_style
from broker_controller.http.question_types import ConversationTemplate, Embeddings, ModelDetails, TokenCount

_CODES = (
    "Errors other than a malformed or too large body have status 200, a code other than 0 and a `text` that says what "
    "happened."
)
_REFUSALS = refusals(cumulative_style, GeneratedText, [BadRequestError, RequestTooLargeError, LoopError])
_MODEL_BODY = body(object_of(["model"], model=TEXT), {"model": MODEL})
_CONVERSATION = {
    "name": MODEL,
    "system_template": "<|im_start|>system\n{system_message}<|im_end|>\n",
    "system_message": "You are a helpful assistant.",
    "roles": ["<|im_start|>user\n", "<|im_start|>assistant\n"],
    "messages": [],
    "offset": 0,
    "sep_style": 5,
    "sep": "<|im_end|>\n",
    "sep2": "<|im_end|>\n",
    "stop_str": None,
    "stop_token_ids": None,
}


def _described(
    summary: str, description: str, good: Part, request: Part, parameters: list[Part]
) -> tuple[Operation, Operation]:
    """For any worker, and for one."""
    answers = {"200": with_errors(good, GeneratedText), **_REFUSALS}
    text = f"FastChat's. {description} {_CODES}"
    return (
        operation(summary, text, answers, request, parameters or None),
        operation(f"{summary}, of this worker", text, answers, request, WORKER_NAME + parameters),
    )


COUNT_TOKEN, ONE_COUNT_TOKEN = _described(
    "Count a text's tokens",
    "A worker answers it outside of its slots. One that does not count makes it an error: a guess would be worse.",
    answer("The count", TokenCount(5, 0)),
    body(object_of(["model", "prompt"], model=TEXT, prompt=TEXT), {"model": MODEL, "prompt": "Say hello"}),
    [],
)
MODEL_DETAILS, ONE_MODEL_DETAILS = _described(
    "The model's context length",
    "From what the workers announced; a worker that registered over HTTP is asked.",
    answer("The context length", ModelDetails(8192)),
    _MODEL_BODY,
    [],
)
GET_CONV_TEMPLATE, ONE_GET_CONV_TEMPLATE = _described(
    "The model's conversation template",
    "From what the workers announced; a worker that registered over HTTP is asked.",
    answer("The template", ConversationTemplate(_CONVERSATION)),
    _MODEL_BODY,
    [],
)
GET_EMBEDDINGS, ONE_GET_EMBEDDINGS = _described(
    "Embeddings",
    "A request as any other: it waits for a slot.",
    answer("The embeddings", Embeddings([[0.25, -0.5]], 2), START_HEADERS),
    body(
        object_of(
            ["model", "input"],
            model=TEXT,
            input={"oneOf": [TEXT, {"type": "array", "items": {}}]},
            encoding_format={"type": ["string", "null"], "enum": ["float", "base64", None]},
        ),
        {"model": MODEL, "input": ["Say hello"]},
    ),
    RESUME,
)
