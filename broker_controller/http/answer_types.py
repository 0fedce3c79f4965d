"""What the answers of each endpoint hold. `/docs` derives its schemas from these types.

The surfaces build some of their answers of them; those that stream, and those that an engine gives whole, are written
as bytes and have to fit. All are open: an engine, or a next version, may add fields.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from broker_controller.dispatch import DispatchMethod
from broker_controller.http.question_types import ConversationTemplate, Embeddings, ModelDetails, TokenCount
from broker_controller.http.response_types import DeletedResponse, InputItems, ResponseEvent, ResponseObject
from broker_controller.process_facts import ProcessFacts
from broker_controller.waiting_line import WaitingRequest
from broker_controller.worker_record import WorkerView

# --- OpenAI's


class ErrorFields(Struct, frozen=True):
    """What went wrong, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(Struct, frozen=True):
    """OpenAI's error."""

    error: ErrorFields


class TokenUsage(Struct, frozen=True):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(Struct, frozen=True):
    """The model's part of a chat. There may be calls of tools instead of a content."""

    role: str
    content: str | None = None


class ChatChoice(Struct, frozen=True):
    """One of the `n` answers."""

    index: int
    message: ChatMessage
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class ChatCompletion(Struct, frozen=True):
    """A whole answer of a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True):
    """What one of the `n` answers has more than before."""

    index: int
    delta: dict[str, Any]
    finish_reason: str | None


class ChatChunk(Struct, frozen=True):
    """An event of a chat that streams. The one with the usage has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: TokenUsage | UnsetType | None = UNSET


class CompletionChoice(Struct, frozen=True):
    """One of the `n` texts, or what it has more than before."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None = None


class Completion(Struct, frozen=True):
    """A text that goes on with a prompt, whole or an event of one that streams."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage | UnsetType | None = UNSET


class Embedding(Struct, frozen=True):
    """One vector: numbers, or in base64 the bytes of 32-bit floats, the lowest byte first."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class InputUsage(Struct, frozen=True):
    """Counts of tokens of what generates nothing; 0 where the engine does not count."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True):
    """A vector for each input, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: InputUsage


class ModelObject(Struct, frozen=True):
    """A model, as OpenAI lists it; the last two are ours."""

    id: str
    created: int
    object: Literal["model"]
    owned_by: str
    abilities: tuple[str, ...]
    context_length: int | None


class ModelList(Struct, frozen=True):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelObject]


# --- LLaVA's and FastChat's


class GeneratedText(Struct, frozen=True):
    """The whole text so far; with a code other than 0, a sentence that says what went wrong.

    The last object says who gave the answer where the headers could not; `queue_time` is in seconds.
    """

    text: str
    error_code: int
    usage: TokenUsage | UnsetType = UNSET
    finish_reason: str | UnsetType = UNSET
    logprobs: dict[str, Any] | UnsetType = UNSET
    worker: str | UnsetType = UNSET
    attempts: int | UnsetType = UNSET
    queue_time: float | UnsetType = UNSET


class WorkerStatusAnswer(Struct, frozen=True):
    """A worker."""

    model_names: list[str]
    speed: float
    queue_length: int


class FleetStatusAnswer(WorkerStatusAnswer, frozen=True):
    """A fleet that looks like one worker."""

    controller: str


class ModelNames(Struct, frozen=True):
    """Names, sorted."""

    models: list[str]


class WorkerAddress(Struct, frozen=True):
    """Where to send the request; empty: nowhere."""

    address: str


class Existence(Struct, frozen=True):
    """Whether the worker is known."""

    exist: bool


class Detail(Struct, frozen=True):
    """An error, as FastAPI writes them."""

    detail: str


# --- operations


class Health(Struct, frozen=True):
    """The process answers."""

    status: str


class Readiness(Struct, frozen=True):
    """Whether requests are taken, and if not, why."""

    ready: bool
    reasons: list[str]


class ControllerFacts(Struct, frozen=True):
    """This controller."""

    id: str
    dispatch_method: DispatchMethod
    ready: bool
    reasons: list[str]


class BrokerFacts(Struct, frozen=True):
    """The broker, as this controller's connections see it."""

    connected: bool
    blocked: bool
    problem: str | None
    version: str | None


class HttpWorkerFacts(Struct, frozen=True):
    """A worker of the old kind that registered over HTTP."""

    worker: str
    state: str
    models: list[str]


class ModelFacts(Struct, frozen=True):
    """A model: who serves it, and how many wait. The forecast is in seconds, null while no rate is known."""

    name: str
    workers: int
    slots: int
    free: int
    queue_length: int
    forecast_seconds: float | None


class StreamCounts(Struct, frozen=True):
    """Requests of this controller: now, and since it started."""

    running: int
    waiting: int
    finished: int
    failed: int
    inflight_bytes: int
    waiting_requests: list[WaitingRequest]


class KeptCounts(Struct, frozen=True):
    """Responses that this controller knows of, their bytes, and those that it runs in the background."""

    kept: int
    bytes: int
    running: int


class Status(Struct, frozen=True):
    """All that an operator asks for. `garbage`: messages that were none, by the place where they came."""

    controller: ControllerFacts
    broker: BrokerFacts
    workers: list[WorkerView]
    http_workers: list[HttpWorkerFacts]
    models: list[ModelFacts]
    streams: StreamCounts
    responses: KeptCounts
    garbage: dict[str, int]
    process: ProcessFacts


ANSWERS = (
    OpenAIError, ChatCompletion, ChatChunk, Completion, EmbeddingList, ModelObject, ModelList,
    ResponseObject, ResponseEvent, DeletedResponse, InputItems,
    GeneratedText, TokenCount, ModelDetails, ConversationTemplate, Embeddings,
    WorkerStatusAnswer, FleetStatusAnswer, ModelNames, WorkerAddress, Existence, Detail,
    Health, Readiness, Status,
)  # fmt: skip
"""All that an endpoint may answer."""
