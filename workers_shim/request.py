"""What an engine sees of one request, and what it may yield.

Part of the public API, together with `worker` and `embeddings`. `request_body` makes a `Request`; this knows neither
the broker nor threads.
"""

import math
import time
from typing import Any, Protocol

import msgspec

from broker_wire.messages import Operation, Usage

__all__ = ["Cancelled", "Chunk", "Lost", "Request", "RequestError", "Unavailable", "Usage"]


class Cancelled(Exception):  # noqa: N818 - it is no error: the client left, or the deadline passed
    """Nobody wants the rest of this answer. Let it pass through, after cleaning up."""


class RequestError(Exception):
    """The request's own fault, as a sentence for the client. No other worker is tried.

    Args:
        code: what programs know it by, for OpenAI's error object: "context_length_exceeded"; "" for one of ours.
        param: the field of the request that is at fault, "" where it is none.
    """

    def __init__(self, message: str, *, code: str = "", param: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class Unavailable(Exception):  # noqa: N818 - a state of what is behind the engine, not a failure of the request
    """What runs the model cannot be reached from here, and runs nothing of the request: another worker may take it."""


class Lost(Exception):  # noqa: N818 - a state, as `Unavailable`
    """What runs the model died in the middle of the answer: another worker may go on, until several have died so."""


class Chunk(msgspec.Struct, frozen=True):
    """A step of an answer that is more than a plain delta.

    Attributes:
        text: the delta, "" where there is none.
        finish_reason: why the answer ended, "stop" or "length" for most; on the last chunk.
        usage: token counts; the last one counts.
        payload: a chunk of an OpenAI-compatible engine as it came, or the JSON of a whole answer that has no text.
        logprobs: JSON for the tokens of this chunk: bytes as they came, or anything that JSON can hold.
        index: which of the `n` choices.
        replace_from: everything from this character of the answer on is replaced by `text`.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    payload: bytes | None = None
    logprobs: Any = None
    index: int = 0
    replace_from: int | None = None


class Link(Protocol):
    """What a request needs of whatever carries its answer away."""

    @property
    def cancelled(self) -> bool:
        """Nobody wants the rest."""

    def progress(self) -> None:
        """The engine works."""


class Request(msgspec.Struct, kw_only=True, eq=False):
    """One generation to run.

    Attributes:
        model: the name that the client asked for.
        operation: which HTTP protocol the request came by.
        messages: a chat's messages, as the client sent them; None for the other operations.
        prompt: the text to complete or to embed. None for a chat, and where the client sent a list of several texts
            or of token numbers: that list is then in `parameters` ("prompt" or "input"), and in `inputs`.
        inputs: all that is to be completed or embedded, each a text or a list of token numbers; [] for a chat.
        images: URLs, data URLs or base64, from `images` and from the messages' `image_url` parts.
        parameters: everything else that the client sent.
        max_tokens: tokens to generate at most; None lets the engine choose.
        temperature, top_p, seed: None lets the engine choose.
        default_seed: a seed for this choice, of 31 bits: requests differ in it, the attempts at one request do not.
        stop: end before any of these; no empty ones.
        stream: whether the client reads the answer as it comes. The engine yields it as it comes in any case.
        deadline: on this process's monotonic clock, in seconds.
        request_id: the client's `X-Request-Id`, for logs.
        resume_text: only with resume="prefix": the client has this much of the answer; yield what follows it.
        raw: the client's JSON, untouched.
        suspect: workers have died while they ran this request.
        hops: controllers that it came through before ours, which have each other as workers.
    """

    model: str
    operation: Operation = Operation.COMPLETION
    messages: list[dict[str, Any]] | None = None
    prompt: str | None = None
    inputs: list[str | list[int]] = []
    images: list[str] = []
    parameters: dict[str, Any] = {}
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: list[str] = []
    seed: int | None = None
    default_seed: int = 0
    stream: bool = True
    deadline: float = math.inf
    request_id: str = ""
    resume_text: str = ""
    raw: bytes = b""
    suspect: bool = False
    hops: int = 0
    link: Link | None = None

    @property
    def cancelled(self) -> bool:
        """True once nobody wants the rest: stop soon. Cheap enough to ask for every token."""
        return (self.link is not None and self.link.cancelled) or time.monotonic() >= self.deadline

    def raise_if_cancelled(self) -> None:
        """Raises: Cancelled."""
        if self.cancelled:
            raise Cancelled

    def remaining(self) -> float:
        """Seconds until the deadline, never below 0."""
        return max(0.0, self.deadline - time.monotonic())

    def progress(self) -> None:
        """Say that the engine works although it has nothing to show, so that it is not taken for stalled."""
        if self.link is not None:
            self.link.progress()
