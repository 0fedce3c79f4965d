"""OpenAI's endpoints. The schemas name the usual fields; whatever else a client sends reaches the engine untouched."""

from broker_controller.errors import (
    MEANINGS,
    AddressRefusedError,
    ModelNotFoundError,
    NoSuchPathError,
    WorkerNotFoundError,
    WrongMethodError,
)
from broker_controller.http.answer_types import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatMessage,
    Completion,
    CompletionChoice,
    Embedding,
    EmbeddingList,
    InputUsage,
    ModelList,
    ModelObject,
    OpenAIError,
    TokenUsage,
)
from broker_controller.http.documentation.parts import (
    BOOLEAN,
    COUNT,
    INTEGER,
    MODEL,
    RESUME,
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
    with_events,
)
from broker_controller.http.errors import openai_style

_SAMPLING = {
    "temperature": TEMPERATURE,
    "top_p": TOP_P,
    "max_tokens": COUNT,
    "stop": STOP,
    "seed": INTEGER,
    "n": COUNT,
    "stream": {**BOOLEAN, "default": False},
    "stream_options": {"type": "object", "properties": {"include_usage": BOOLEAN}},
}
_INPUT = {"oneOf": [TEXT, {"type": "array", "items": {}}], "description": "A text, texts, or lists of token numbers"}
_USAGE = TokenUsage(12, 2, 14)
_STREAMED = (
    "With `stream` it is server-sent events, the last one `data: [DONE]`. The status and the headers `X-Worker`, "
    "`X-Attempts` and `X-Queue-Time` (seconds) wait for the first chunk, 5 s at most; an error after that is an "
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

_NOT_HERE = (AddressRefusedError, NoSuchPathError, WorkerNotFoundError, WrongMethodError)
_ERRORS = refusals(openai_style, OpenAIError, [kind for kind in MEANINGS if kind not in _NOT_HERE])

_CHAT = ChatCompletion(
    "chatcmpl-1",
    "chat.completion",
    1700000000,
    MODEL,
    [ChatChoice(0, ChatMessage("assistant", "Hello there"), "stop")],
    _USAGE,
)
CHAT_COMPLETIONS = operation(
    "Answer a chat",
    f"OpenAI's chat completions. {_STREAMED}",
    {"200": with_events(answer("The answer", _CHAT, START_HEADERS), ChatChunk, _CHAT_EVENTS), **_ERRORS},
    body(
        object_of(
            ["model", "messages"],
            model=TEXT,
            messages={"type": "array", "minItems": 1, "items": object_of(["role"], role=TEXT, content={})},
            **_SAMPLING,
        ),
        {"model": MODEL, "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 32, "stream": True},
    ),
    RESUME + SESSION,
)

_COMPLETION = Completion(
    "cmpl-1", "text_completion", 1700000000, MODEL, [CompletionChoice(0, " upon a time", "length")], _USAGE
)
COMPLETIONS = operation(
    "Go on with a text",
    f"OpenAI's completions. {_STREAMED}",
    {"200": with_events(answer("The answer", _COMPLETION, START_HEADERS), Completion, _COMPLETION_EVENTS), **_ERRORS},
    body(
        object_of(
            ["model", "prompt"],
            model=TEXT,
            prompt=_INPUT,
            **_SAMPLING,
        ),
        {"model": MODEL, "prompt": "Once", "max_tokens": 32},
    ),
    RESUME + SESSION,
)

_EMBEDDINGS = EmbeddingList("list", [Embedding("embedding", 0, [0.25, -0.5])], "bge-small", InputUsage(2, 2))
EMBEDDINGS = operation(
    "Embed texts",
    "OpenAI's embeddings, of models with the ability `embedding`.",
    {"200": answer("The vectors, one for each input", _EMBEDDINGS, START_HEADERS), **_ERRORS},
    body(
        object_of(
            ["model", "input"],
            model=TEXT,
            input=_INPUT,
            encoding_format={"type": "string", "enum": ["float", "base64"], "default": "float"},
            dimensions=COUNT,
        ),
        {"model": "bge-small", "input": ["Hello there", "Good morning"]},
    ),
    RESUME,
)

_MODEL = ModelObject(MODEL, 1700000000, "model", "broker-controller", ("chat", "completion"), 2048)
MODELS = {"responses": {"200": answer("The models", ModelList("list", [_MODEL]))}}
ONE_MODEL = {
    "responses": {
        "200": answer("The model", _MODEL),
        **refusals(openai_style, OpenAIError, [ModelNotFoundError]),
    }
}
