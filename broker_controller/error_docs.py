"""Writes docs/errors.md from the table: `python -m broker_controller.error_docs > docs/errors.md`."""

import sys

from broker_controller.errors import (
    MEANINGS,
    NOT_QUEUED,
    REMEDIES,
    AddressRefusedError,
    AnswerTooLargeError,
    BadRequestError,
    BrokerUnavailableError,
    DeadlineError,
    EngineError,
    EngineRefusedError,
    InternalError,
    LoopError,
    ModelNotFoundError,
    NoSuchPathError,
    NotToldError,
    OverloadedError,
    PoisonError,
    PreviousResponseNotFoundError,
    QueueFullError,
    RequestTooLargeError,
    ResponseNotFoundError,
    ServiceError,
    ShuttingDownError,
    Subject,
    WorkerLostError,
    WorkerNotFoundError,
    WrongMethodError,
    client_text,
    retry_seconds,
)

_ID, _MODEL = "4f1c", "llava-v1.6"
_CALL = Subject(_ID)
_UNREAD = Subject(_ID, stage=NOT_QUEUED)
_AT_THE_DOOR = Subject(_ID, _MODEL, NOT_QUEUED)
_MIDDLE = Subject(_ID, _MODEL, "on worker 'gpu-1' after 17 chunks")

EXAMPLES: tuple[ServiceError, ...] = (
    BadRequestError("the body of the request is not JSON: input data was truncated", subject=_UNREAD),
    NoSuchPathError("there is nothing at /v1/chat", subject=_CALL),
    WrongMethodError("/v1/chat/completions does not take GET", subject=_CALL),
    RequestTooLargeError("the body has 16800000 bytes or more, 16000000 can be taken", subject=_UNREAD),
    LoopError("it has come through 9 controllers, which have each other as workers, it seems", subject=_CALL),
    EngineRefusedError(
        "worker 'gpu-1' says: the prompt has 9000 tokens, 4096 fit",
        subject=Subject(_ID, _MODEL, "starting on worker 'gpu-1'"),
    ),
    ResponseNotFoundError("the response resp_61b0 is not kept", subject=_CALL),
    PreviousResponseNotFoundError("the previous response resp_61b0 is not kept", subject=_UNREAD),
    ModelNotFoundError("no worker serves it; served now: vicuna-7b", subject=_AT_THE_DOOR),
    WorkerNotFoundError("there is no worker 'gpu-9'", subject=_AT_THE_DOOR),
    NotToldError("no worker of this model can count tokens", subject=_AT_THE_DOOR),
    AddressRefusedError("worker 'http://192.0.2.7:21002' may not register: 192.0.2.7 is in none of …", subject=_CALL),
    QueueFullError("it was not taken, as many requests as may wait are waiting", retry_after=7, subject=_AT_THE_DOOR),
    OverloadedError(
        "it was not taken: this controller holds 1073000000 bytes of requests and answers, and may hold 1073741824",
        retry_after=5,
        subject=_AT_THE_DOOR,
    ),
    BrokerUnavailableError(
        "it was not taken: the broker holds publishers back: it has a memory or disk alarm",
        retry_after=5,
        subject=_AT_THE_DOOR,
    ),
    DeadlineError("its time of 600 s was up", retry_after=42, subject=Subject(_ID, _MODEL, "in the queue")),
    EngineError("worker 'gpu-1' says: CUDA out of memory", subject=_MIDDLE),
    AnswerTooLargeError("its answer is larger than what is kept of one, 4194304 bytes", subject=_MIDDLE),
    WorkerLostError(
        "the worker was lost in the middle of the answer, and it was asked for with X-Resume: never", subject=_MIDDLE
    ),
    PoisonError(
        "workers gpu-1, gpu-2, gpu-3 died while they ran this request, and it is not tried again",
        subject=Subject(_ID, _MODEL, "starting"),
    ),
    ShuttingDownError("this controller has shut down", subject=_MIDDLE),
    InternalError("it was given up: this controller has a bug", subject=_MIDDLE),
)
"""One of each kind, as a client may get it."""


def page() -> str:
    """The whole page."""
    lines = [
        "# Errors",
        "",
        "Made from `broker_controller/errors.py`: `python -m broker_controller.error_docs > docs/errors.md`.",
        "",
        "LLaVA's protocol answers with status 200 and its code, except where the request cannot be understood. An",
        "answer that has begun has status 200 in every protocol, and ends with the error. `Retry-After` is sent with",
        "every answer that has not begun, where the table says so; its seconds are in the text in any case.",
        "An engine that refuses a request may name a code and a parameter of its own, as `context_length_exceeded`:",
        "they take the places of ours in OpenAI's object.",
        "",
        "| what | status | OpenAI type | OpenAI code | LLaVA code | retryable | `Retry-After` | what to do |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_row(example) for example in EXAMPLES]
    lines += [
        "",
        "## What clients read",
        "",
        "One text in every protocol: the request's id, the model, where the request was, what happened, when to try",
        "again, what to do. What is counted are chunks; an engine may put several tokens into one.",
        "",
    ]
    lines += [f"- `{MEANINGS[type(example)].openai_code}`: {client_text(example)}" for example in EXAMPLES]
    return "\n".join(lines) + "\n"


def _row(example: ServiceError) -> str:
    kind = type(example)
    meaning = MEANINGS[kind]
    cells = (
        (kind.__doc__ or "").strip().partition("\n")[0],
        str(meaning.status.value),
        f"`{meaning.openai_type}`",
        f"`{meaning.openai_code}`",
        str(meaning.llava_code),
        "yes" if meaning.retryable else "no",
        "no" if retry_seconds(example) is None else "yes",
        REMEDIES[kind],
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
