"""Where our controller answers otherwise than FastChat's own, on purpose: the one table of it, by step.

A row's name is the first cell of a row of "What differs, on purpose" in docs/migrating.md, which says why.
"""

from typing import Any

from msgspec import Struct

MALFORMED = "a malformed body"
ERROR = "an error's text and `error_code`"
ALLOWED = "`/register_worker` of an address outside the allow-list"
THE_MODEL = "`model` in a call at a worker's address"
WHO_TELLS = "the fleet's `/worker_get_status`"
MORE = "the last object of a stream, where its headers could not say who gave it"
WHO_GAVE_IT = frozenset({"worker", "attempts", "queue_time"})
"""Fields that ours may have more, by the row MORE."""
HIGH_TRAFFIC = "NETWORK ERROR DUE TO HIGH TRAFFIC"


class Difference(Struct, frozen=True):
    """What each side answers to one step: the HTTP status, and the fields that differ. Of texts, what is in them."""

    row: str
    theirs: tuple[int, dict[str, Any]]
    ours: tuple[int, dict[str, Any]]


def _malformed(**ours: Any) -> Difference:
    return Difference(MALFORMED, (500, {}), (400, ours))


DIFFERENCES = {
    "status": Difference(WHO_TELLS, (200, {}), (200, {"controller": ""})),
    "register: nothing": _malformed(detail="has not the right form"),
    "register: no JSON": _malformed(detail="is not JSON"),
    "heartbeat: nothing": _malformed(detail="has not the right form"),
    "address: nothing": _malformed(detail="has not the right form"),
    "register: an address elsewhere": Difference(ALLOWED, (200, {}), (403, {"detail": "may not register"})),
    "stream: unknown model": Difference(
        ERROR,
        (200, {"text": HIGH_TRAFFIC, "error_code": 50006}),
        (200, {"text": "for model 'another'", "error_code": 2}),
    ),
    "stream: error": Difference(
        ERROR,
        (200, {"text": HIGH_TRAFFIC, "error_code": 50001}),
        (200, {"text": "the tensor is too small", "error_code": 1}),
    ),
    "generate: error": Difference(
        ERROR,
        (200, {"text": HIGH_TRAFFIC, "error_code": 50001}),
        (200, {"text": "the tensor is too small", "error_code": 1}),
    ),
    "count: no prompt": _malformed(text="missing required field `prompt`", error_code=1),
    "count: no JSON": _malformed(text="is not JSON", error_code=1),
    "conversation: no model": Difference(
        THE_MODEL, (200, {}), (400, {"text": "missing required field `model`", "error_code": 1})
    ),
    "details: another model": Difference(
        THE_MODEL, (200, {"context_length": 2048}), (200, {"text": "no worker serves it", "error_code": 2})
    ),
}
