"""What can be decided about a request: words between `lifecycle`, which decides, and `gateway`, which acts. Pure."""

from enum import Enum, StrEnum, auto

from msgspec import Struct, structs

from broker_controller.errors import ServiceError
from broker_wire.messages import Cancel, ControlMessage


class Stage(Enum):
    """Where a request is."""

    WAITING = auto()
    RUNNING = auto()
    OVER = auto()


class Place(StrEnum):
    """The queue that a request is sent to."""

    MODEL = "model"
    OWN = "own"
    PINNED = "pinned"
    RESUME = "resume"


class Limits(Struct, frozen=True):
    """When to stop waiting. Seconds, unless it says otherwise.

    Attributes:
        first_token, between_tokens: a running stream without progress for so long is moved to another worker.
        first_token_of, between_tokens_of: the same for models that have their own; `for_model` puts them in place.
        grace: how long a lost worker's stream waits for its redelivery, or for the worker, before it is sent anew.
        hold: a copy waits so long for a sign of life of the worker that has the stream, where that may be alive: after
            our own reconnect, or when it was lost and came back.
        worker_wait: how long a request waits for a model whose workers have all left.
        max_kills: workers that may die under a request, and it alone, before it ends; also of what workers have behind
            them, which may run others at the same time.
        max_moves: times that a stream may move for any other reason.
        max_engine_retries: times that an engine's error is tried again, while the client has nothing.
    """

    first_token: float = 60.0
    between_tokens: float = 10.0
    grace: float = 5.0
    hold: float = 2.0
    worker_wait: float = 30.0
    max_kills: int = 3
    max_moves: int = 8
    max_engine_retries: int = 1
    first_token_of: dict[str, float] = {}
    between_tokens_of: dict[str, float] = {}

    def for_model(self, model: str) -> "Limits":
        """Those of a request for this model."""
        if model not in self.first_token_of and model not in self.between_tokens_of:
            return self
        return structs.replace(
            self,
            first_token=self.first_token_of.get(model, self.first_token),
            between_tokens=self.between_tokens_of.get(model, self.between_tokens),
        )


class Publish(Struct, frozen=True):
    """Send the request to this queue."""

    place: Place
    attempt: int
    ask_first: bool


class Tell(Struct, frozen=True):
    """Send this to one worker."""

    instance: str
    message: ControlMessage


class Broadcast(Struct, frozen=True):
    """Send this to all workers of the model."""

    message: Cancel


class GiveUp(Struct, frozen=True):
    """The request is over: tell the client."""

    error: ServiceError


Action = Publish | Tell | Broadcast | GiveUp
