"""What an HTTP worker says of itself, and which of its models are served under which names. Pure; used by `watch`."""

import math
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from broker_wire.topology import check_model_name

MULTIMODAL_MARK = "llava"
"""LLaVA's own rule, llava/serve/model_worker.py: a model with it in its name takes images."""
MAX_QUEUE_LENGTH = 1_000_000
"""More than any worker has; a nonsense number must not break a controller's sums."""


class Status(Struct, frozen=True):
    """Its `/worker_get_status`."""

    model_names: tuple[str, ...]
    speed: float = 1.0
    queue_length: float = 0.0


def read_status(answer: object) -> Status | None:
    """None for what is no status. Names that cannot be, and numbers that are none, are left out."""
    try:
        status = msgspec.convert(answer, Status)
    except msgspec.ValidationError:
        return None
    speed = status.speed if math.isfinite(status.speed) and status.speed >= 0 else 1.0
    # Written so that NaN is 0, too.
    length = min(status.queue_length, MAX_QUEUE_LENGTH) if status.queue_length > 0 else 0.0
    return Status(tuple(filter(_can_be_a_name, status.model_names)), speed, length)


def choose_models(wanted: Sequence[str] | None, served: Sequence[str]) -> dict[str, str]:
    """Our names to theirs.

    Args:
        wanted: `NAME` of theirs, or `OURS=THEIRS`; None for all.
        served: their names. One that has a `=` in it is itself before it is two.
    """
    if wanted is None:
        return {name: name for name in served}
    pairs = {}
    for text in wanted:
        ours, equals, theirs = text.partition("=")
        if text in served:
            pairs[text] = text
        elif equals and ours and theirs in served:
            pairs[ours] = theirs
    return pairs


def abilities_of(model: str) -> tuple[str, ...]:
    """By its worker's name for it, for the status says nothing of that."""
    # Whether it makes embeddings it does not tell: it is asked.
    plain = ("chat", "completion", "embedding")
    return (*plain, "vision") if MULTIMODAL_MARK in model.lower() else plain


def _can_be_a_name(name: str) -> bool:
    try:
        check_model_name(name)
    except ValueError:
        return False
    return True
