"""How an HTTP worker of the old kind registers, and what it says about itself, checked.

Its numbers come from strangers: here they become numbers that can be added, compared and divided by. Pure; used by
`registry`, `controller` and whoever asks such a worker for its status.
"""

import math
from collections.abc import Mapping
from typing import TypeGuard

from msgspec import Struct

from broker_wire.errors import NameRefusedError
from broker_wire.messages import Ability, ModelCard
from broker_wire.topology import check_model_name

# No queue is so long and no worker so fast: a nonsense number must not break the sums.
MAX_QUEUE_LENGTH = 1_000_000_000
MAX_SPEED = 1e9


class Registration(Struct):
    """How an HTTP worker registered. A bridge on the broker may come and go; this stays until it expires.

    `last_seen` is the time of its own latest heartbeat or registration (seconds, monotonic).
    """

    check_heart_beat: bool
    multimodal: bool
    last_seen: float
    queue_length: int


class WorkerStatus(Struct, frozen=True):
    """What an HTTP worker says about itself."""

    model_names: tuple[str, ...]
    speed: float
    queue_length: int

    @classmethod
    def from_answer(cls, answer: object) -> "WorkerStatus | None":
        """From the JSON of `/worker_get_status` or of a registration; None when it is not of that form."""
        if not isinstance(answer, Mapping):
            return None
        names, speed, queue_length = (answer.get(key) for key in ("model_names", "speed", "queue_length"))
        if not isinstance(names, list | tuple) or not all(_is_model_name(name) for name in names):
            return None
        if not _is_number(speed) or not _is_number(queue_length):
            return None
        return cls(tuple(dict.fromkeys(names)), clamp_speed(speed), clamp_queue_length(queue_length))

    def cards(self, multimodal: bool) -> tuple[ModelCard, ...]:
        """Its models, as a worker on the broker would announce them."""
        vision = (Ability.VISION,) if multimodal else ()
        return tuple(ModelCard(name, (Ability.CHAT, Ability.COMPLETION, *vision)) for name in self.model_names)


def clamp_queue_length(queue_length: float) -> int:
    """A queue length that somebody else reports, from 0 to a billion."""
    return int(min(max(queue_length, 0), MAX_QUEUE_LENGTH))


def clamp_speed(speed: float) -> float:
    """A speed that somebody else reports, from 0 to a billion; what is no number at all is 0."""
    return float(min(speed, MAX_SPEED)) if speed > 0 else 0.0


def _is_model_name(name: object) -> bool:
    try:
        return isinstance(name, str) and check_model_name(name) == name
    except NameRefusedError:
        return False


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not math.isnan(value) if isinstance(value, float) else True
