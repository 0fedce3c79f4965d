"""What Prometheus reads at `/metrics`: the tally of requests, and the state of the fleet at that moment.

Names, units and types by Prometheus's conventions. Used by `operations`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from broker_controller.decisions import Stage
from broker_controller.distribution import Distribution
from broker_controller.http.readiness import not_ready
from broker_controller.http.services import Services
from broker_controller.tally import Tally
from broker_controller.worker_record import RecordState

PREFIX = "broker_controller"
_HISTOGRAMS = (
    ("queue_wait_seconds", "From the request to its start at a worker.", "wait"),
    ("time_to_first_token_seconds", "From the request to its first chunk.", "first"),
    ("time_per_output_token_seconds", "Between tokens after the first, as the mean of each answer.", "token"),
    ("request_duration_seconds", "From the request to the end of its answer, where that is complete.", "total"),
)
"""By model: name, text, and the field of its tally."""
_COUNTERS = (
    ("input_tokens", "Tokens of prompts, where the engine says how many."),
    ("output_tokens", "Tokens of answers: its usage, or its chunks."),
    ("attempts", "Starts at a worker, the first of each request included."),
    ("moves", "Times that a request went on at another worker."),
)
"""By model: name, which is the field of its tally, too, and text."""


class Exposition:
    """Of one controller process. Another one of the fleet has its own."""

    def __init__(self, services: Services) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(TallyCollector(services.gateway.tally))
        self._registry.register(StateCollector(services))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text, and its content type, in the format that the scraper's `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class TallyCollector(Collector):
    """What became of requests."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        """At a scrape."""
        models = self._tally.models
        ends = CounterMetricFamily(
            f"{PREFIX}_requests",
            "Requests that are over. Outcome: complete, error, left (by its client), rejected (never queued).",
            labels=("model", "outcome", "cause"),
        )
        for model, tally in models.items():
            for (outcome, cause), count in tally.ends.items():
                ends.add_metric((model, outcome.value, cause), count)
        yield ends
        for name, text, field in _HISTOGRAMS:
            yield _histogram(name, text, ((model, getattr(tally, field)) for model, tally in models.items()))
        for name, text in _COUNTERS:
            counter = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=("model",))
            for model, tally in models.items():
                counter.add_metric((model,), getattr(tally, name))
            yield counter
        repairs = "Parts of answers that did not arrive, and were asked for again."
        yield CounterMetricFamily(f"{PREFIX}_repairs", repairs, value=self._tally.repairs)
        overhead = HistogramMetricFamily(
            f"{PREFIX}_overhead_seconds",
            "Own time for a request: from its bytes to the broker, and from the broker to its first bytes back.",
        )
        overhead.add_metric((), *_buckets(self._tally.overhead))
        yield overhead


class StateCollector(Collector):
    """The fleet and the broker, as this controller sees them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """At a scrape."""
        yield from self._requests()
        yield from self._workers()
        links = self._services.links
        yield _gauge("broker_up", "1 while both connections to the broker are open.", float(links.up))
        yield _gauge("broker_blocked", "1 while the broker holds publishers back.", float(links.blocked))
        yield CounterMetricFamily(f"{PREFIX}_broker_reconnects", "Connections that came back.", value=links.reconnects)
        unconfirmed = "Published, and not yet taken by the broker."
        yield _gauge("broker_unconfirmed_bytes", unconfirmed, links.unconfirmed_bytes)
        yield _gauge("ready", "1 while requests can be taken.", float(not not_ready(self._services)))
        garbage = CounterMetricFamily(
            f"{PREFIX}_garbage", "Messages that were none, by where they came.", labels=["at"]
        )
        for place, count in self._services.garbage.counts.items():
            garbage.add_metric((place,), count)
        yield garbage

    def _requests(self) -> Iterator[Metric]:
        gateway = self._services.gateway
        stages = Counter(stream.life.stage for stream in gateway.streams.values())
        streams = GaugeMetricFamily(f"{PREFIX}_streams", "Requests that are not over.", labels=["stage"])
        for stage in (Stage.WAITING, Stage.RUNNING):
            streams.add_metric((stage.name.lower(),), stages[stage])
        yield streams
        yield _gauge("inflight_bytes", "Held of requests and answers.", gateway.inflight.total)
        depth = GaugeMetricFamily(f"{PREFIX}_queue_depth", "Requests in the model's queue.", labels=["model"])
        for model, length in self._services.queues.lengths.items():
            depth.add_metric((model,), length)
        yield depth

    def _workers(self) -> Iterator[Metric]:
        records = self._services.controller.registry.workers()
        states = Counter(record.state for record in records)
        workers = GaugeMetricFamily(f"{PREFIX}_workers", "Workers by state.", labels=["state"])
        for state in RecordState:
            workers.add_metric((state.value,), states[state])
        yield workers
        live = [record for record in records if record.state.live]
        slots = GaugeMetricFamily(f"{PREFIX}_slots", "Slots of live workers.", labels=["state"])
        free = sum(record.reported.free for record in live)
        slots.add_metric(("free",), free)
        slots.add_metric(("taken",), sum(record.slots for record in live) - free)
        yield slots


def _histogram(name: str, text: str, distributions: Iterable[tuple[str, Distribution]]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"{PREFIX}_{name}", text, labels=("model",))
    for model, distribution in distributions:
        family.add_metric((model,), *_buckets(distribution))
    return family


def _buckets(distribution: Distribution) -> tuple[list[tuple[str, float]], float]:
    bounds = [*map(str, distribution.bounds), "+Inf"]
    return list(zip(bounds, accumulate(map(float, distribution.counts)), strict=True)), distribution.sum


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
