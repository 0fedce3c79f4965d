"""Who waits for a slot: each one's place and forecast, and when to come back for whoever did not get one.

Used by `gateway`, which calls `look_ahead` at every look at its clocks. Times are passed in (seconds, monotonic).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from msgspec import Struct

from broker_controller.decisions import Place, Stage
from broker_controller.forecast import Forecasts
from broker_controller.lifecycle import RequestLife
from broker_controller.streams import GenerationStream

MAX_SHOWN = 100
"""Waiting requests that the status lists, those that came first."""
ALMOST_FULL = 0.5
"""Of the bound: what was read up to a second ago may have doubled since."""


class WaitingRequest(Struct, frozen=True):
    """One that waits, as the status shows it.

    Attributes:
        place, of: about, in the model's queue; None where it waits elsewhere, or has not been looked at yet.
        forecast_seconds: about, until it starts; None while no rate is known.
    """

    request_id: str
    model: str
    place: int | None
    of: int | None
    forecast_seconds: float | None


class WaitingLine:
    """Those of one controller."""

    def __init__(self, queue_lengths: Callable[[], Mapping[str, int]], max_length: int) -> None:
        """`queue_lengths` of the models' queues, by model; `max_length` is their bound."""
        self._queue_lengths = queue_lengths
        self._max_length = max_length
        self._forecasts = Forecasts()

    def note_finished(self, model: str, now: float) -> None:
        """A slot was freed."""
        self._forecasts.note_finished(model, now)

    def forecast(self, model: str, now: float) -> float | None:
        """Seconds, about, until a new request for this model would start; None while no rate is known."""
        return self._forecasts.seconds_for(model, self._queue_lengths().get(model, 0), now)

    def retry_when_full(self, model: str, now: float) -> float:
        """Seconds until the model's queue has a place again."""
        length = self._queue_lengths().get(model, self._max_length)
        return self._forecasts.retry_after(model, length, self._max_length, now)

    def may_be_full(self, model: str) -> bool:
        """Whether the model's queue can have reached its bound since it was last read."""
        return self._queue_lengths().get(model, 0) >= self._max_length * ALMOST_FULL

    def retry_after_deadline(self, life: RequestLife, now: float) -> float:
        """Seconds until one like this may be served, whose time is up."""
        waited = (now if life.started_at is None else life.started_at) - life.submitted_at
        return self._forecasts.after_deadline(life.model, self._queue_lengths().get(life.model, 0), waited, now)

    def look_ahead(self, streams: Iterable[GenerationStream], now: float) -> None:
        """Tell everybody who waits in a model's queue its place there, in the order of submission."""
        waiting = []
        for stream in streams:
            stream.outlook = None
            if stream.life.stage is Stage.WAITING and stream.life.place is Place.MODEL:
                waiting.append(stream)
        totals = Counter(stream.model for stream in waiting)
        places: Counter[str] = Counter()
        lengths = self._queue_lengths()
        for stream in waiting:
            model = stream.model
            places[model] += 1
            stream.outlook = self._forecasts.outlook(model, places[model], totals[model], lengths.get(model, 0), now)


def shown(streams: Iterable[GenerationStream]) -> list[WaitingRequest]:
    """Those that wait, `MAX_SHOWN` at most, as of the last `look_ahead`."""
    waiting = (stream for stream in streams if stream.life.stage is Stage.WAITING)
    return [_view(stream) for stream in islice(waiting, MAX_SHOWN)]


def _view(stream: GenerationStream) -> WaitingRequest:
    outlook = stream.outlook
    if outlook is None:
        return WaitingRequest(stream.request_id, stream.model, None, None, None)
    return WaitingRequest(stream.request_id, stream.model, outlook.place, outlook.length, outlook.seconds)
