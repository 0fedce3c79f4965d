"""What became of requests, in numbers: each is counted once, when it is over.

Pure, fed by `gateway`; `http/exposition` makes Prometheus's metrics of it. Its library's own counters would cost a
short request a twentieth of its time. What is kept is bounded: models that the fleet has announced, the outcomes and
causes that there are, and nothing that a client makes up. Seconds throughout.
"""

from collections import Counter
from collections.abc import Callable, Container
from enum import StrEnum

from broker_controller.distribution import Distribution
from broker_controller.errors import ServiceError, meaning_of
from broker_controller.streams import GenerationStream

MAX_MODELS = 200
"""That are counted apart; what comes after them is counted as `OTHER`, as what nobody serves."""
OTHER = "other"

WAIT_BOUNDS = (0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
FIRST_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5)
TOTAL_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
OVERHEAD_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETE = "complete"
    ERROR = "error"
    LEFT = "left"
    """Its client has."""
    REJECTED = "rejected"
    """It never came to a queue."""


class ModelTally:
    """Of the requests for one model."""

    __slots__ = ("attempts", "ends", "first", "input_tokens", "moves", "output_tokens", "token", "total", "wait")

    def __init__(self) -> None:
        self.ends: Counter[tuple[Outcome, str]] = Counter()
        """By outcome and, of an error, its code in OpenAI's protocol."""
        self.wait = Distribution(WAIT_BOUNDS)
        """From the request to its start at a worker."""
        self.first = Distribution(FIRST_BOUNDS)
        """From the request to its first chunk."""
        self.token = Distribution(TOKEN_BOUNDS)
        """Between tokens after the first, as the mean of each answer."""
        self.total = Distribution(TOTAL_BOUNDS)
        """From the request to the end of its answer."""
        self.input_tokens = 0
        self.output_tokens = 0
        self.attempts = 0
        self.moves = 0


class Tally:
    """Of one controller process."""

    def __init__(self, announced: Callable[[], Container[str]]) -> None:
        """`announced`: the models that the fleet serves."""
        self.models: dict[str, ModelTally] = {}
        self.overhead = Distribution(OVERHEAD_BOUNDS)
        """Own time for a request: from its bytes to the broker, and from the broker to its first bytes back."""
        self.repairs = 0
        """Parts of answers that did not arrive, and were asked for again."""
        self._announced = announced

    def on_rejected(self, model: str, error: ServiceError) -> None:
        """It never came to a queue."""
        self._of(model).ends[Outcome.REJECTED, _cause(error)] += 1

    def on_left(self, stream: GenerationStream) -> None:
        """Its client has left."""
        self._count(stream, Outcome.LEFT, "")

    def on_failed(self, stream: GenerationStream, error: ServiceError) -> None:
        """It ended as an error."""
        life = stream.life
        was_queued = life.accepted or life.started_at is not None
        self._count(stream, Outcome.ERROR if was_queued else Outcome.REJECTED, _cause(error))

    def on_complete(self, stream: GenerationStream, now: float) -> None:
        """Its answer is here in whole."""
        tally = self._count(stream, Outcome.COMPLETE, "")
        total, first = now - stream.life.submitted_at, stream.first_token_seconds
        tally.total.add(total)
        if stream.usage is not None:
            tally.input_tokens += stream.usage.prompt_tokens
        tokens = stream.tokens
        tally.output_tokens += tokens
        if first is not None:
            tally.first.add(first)
            if tokens > 1:
                tally.token.add((total - first) / (tokens - 1))

    def _count(self, stream: GenerationStream, outcome: Outcome, cause: str) -> ModelTally:
        tally = self._of(stream.model)
        tally.ends[outcome, cause] += 1
        start = stream.start
        if start is not None:
            tally.wait.add(start.queue_seconds)
            tally.attempts += start.attempts
            tally.moves += stream.life.moves
        return tally

    def _of(self, model: str) -> ModelTally:
        tally = self.models.get(model)
        if tally is None:
            if len(self.models) >= MAX_MODELS or model not in self._announced():
                model = OTHER
            tally = self.models.setdefault(model, ModelTally())
        return tally


def _cause(error: ServiceError) -> str:
    """Of the table of errors: what an engine calls a refusal is its own word, and not bounded."""
    return meaning_of(error).openai_code
