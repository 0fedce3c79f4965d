"""What the answers of the Responses API hold, as `answer_types` has it for all others."""

from typing import Any, Literal

from msgspec import Struct


class ResponseError(Struct, frozen=True):
    """Why a response failed; the code is one of docs/errors.md."""

    code: str
    message: str


class ResponseObject(Struct, frozen=True):
    """A response: what was asked, and what has been answered so far."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: list[dict[str, Any]]
    background: bool
    store: bool
    error: ResponseError | None
    incomplete_details: dict[str, str] | None
    previous_response_id: str | None
    usage: dict[str, Any] | None


class ResponseEvent(Struct, frozen=True):
    """An event of a response. The numbers of one response begin at 0 and have no holes."""

    type: str
    sequence_number: int


class DeletedResponse(Struct, frozen=True):
    """It is not kept any more."""

    id: str
    object: Literal["response"]
    deleted: bool


class InputItems(Struct, frozen=True):
    """What a response was made of, the last first."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
