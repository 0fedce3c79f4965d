"""What became of requests, counted: once each, with labels that a client cannot multiply."""

import time

import pytest

from broker_controller.decisions import Limits, Place
from broker_controller.distribution import Distribution
from broker_controller.errors import EngineError, EngineRefusedError, OverloadedError, ServiceError
from broker_controller.lifecycle import RequestLife
from broker_controller.streams import GenerationStream
from broker_controller.tally import MAX_MODELS, OTHER, Outcome, Tally
from broker_wire.messages import End, Started, Texts, Usage

SENT = 1000.0


def stream_of(model: str = "m") -> GenerationStream:
    life = RequestLife(
        controller="c",
        stream=1,
        request_id="r",
        model=model,
        place=Place.MODEL,
        target="",
        deadline=SENT + 600,
        now=SENT,
        limits=Limits(),
    )
    return GenerationStream(life, on_cancel=lambda _: None, on_flow=lambda *_: None)


def started(model: str = "m") -> GenerationStream:
    stream = stream_of(model)
    stream.life.on_confirmed(1)
    stream.life.on_started(Started(1, 1, "w1", "i1"), SENT + 3.0, SENT + 3.0)
    return stream


def ends(stream: GenerationStream, end: End) -> None:
    stream.life.answer.accept(end)
    stream.end(end)


def in_bucket_of(distribution: Distribution, value: float) -> int:
    """How many are in the bucket that this value is in."""
    alone = Distribution(distribution.bounds)
    alone.add(value)
    return distribution.counts[alone.counts.index(1)]


@pytest.fixture
def tally() -> Tally:
    return Tally(lambda: {"m", "n"})


@pytest.mark.parametrize(("usage", "tokens", "prompt"), [(None, 3, 0), (Usage(7, 5), 5, 7)])
def test_a_complete_answer_counts_its_times_and_tokens(
    tally: Tally, usage: Usage | None, tokens: int, prompt: int
) -> None:
    stream = started()
    stream.life.answer.accept_texts(Texts(1, 1, 0, ["a", "b", "c"]))
    stream.first_at = SENT + 4.0
    ends(stream, End(1, 1, 3, usage=usage))
    tally.on_complete(stream, SENT + 8.0)
    of_model = tally.models["m"]
    assert of_model.ends == {(Outcome.COMPLETE, ""): 1}
    assert (of_model.output_tokens, of_model.input_tokens) == (tokens, prompt)
    assert (of_model.attempts, of_model.moves) == (1, 0)
    assert in_bucket_of(of_model.wait, 3.0) == 1
    assert in_bucket_of(of_model.first, 4.0) == 1
    assert in_bucket_of(of_model.total, 8.0) == 1
    assert of_model.token.sum == pytest.approx(4.0 / (tokens - 1))


def test_an_answer_without_a_chunk_has_no_time_to_its_first_token(tally: Tally) -> None:
    stream = started()
    ends(stream, End(1, 1, 0, result=b"{}"))
    tally.on_complete(stream, SENT + 8.0)
    of_model = tally.models["m"]
    assert of_model.output_tokens == sum(of_model.first.counts) == sum(of_model.token.counts) == 0
    assert sum(of_model.total.counts) == 1


def test_what_fails_before_a_queue_took_it_is_rejected_and_later_an_error(tally: Tally) -> None:
    tally.on_rejected("m", OverloadedError("full", retry_after=1.0))
    tally.on_failed(stream_of(), OverloadedError("full", retry_after=1.0))
    tally.on_failed(started(), EngineError("it raised"))
    tally.on_left(started())
    assert tally.models["m"].ends == {
        (Outcome.REJECTED, "overloaded"): 2,
        (Outcome.ERROR, "engine_error"): 1,
        (Outcome.LEFT, ""): 1,
    }


def test_what_an_engine_calls_its_refusal_is_no_label(tally: Tally) -> None:
    codes = {cause for error in _refusals() for cause in _causes_of(tally, error)}
    assert len(codes) == 1


def _refusals() -> list[ServiceError]:
    return [EngineRefusedError("no", code=f"made_up_{number}") for number in range(3)]


def _causes_of(tally: Tally, error: ServiceError) -> list[str]:
    tally.on_failed(started(), error)
    return [cause for _, cause in tally.models["m"].ends]


def test_models_that_nobody_announced_are_one() -> None:
    tally = Tally(lambda: {"m"})
    for name in ("made", "up", "m"):
        tally.on_rejected(name, OverloadedError("full", retry_after=1.0))
    assert set(tally.models) == {"m", OTHER}
    assert tally.models[OTHER].ends == {(Outcome.REJECTED, "overloaded"): 2}


def test_no_more_models_are_counted_apart_than_may_be() -> None:
    many = [f"m{number}" for number in range(MAX_MODELS + 50)]
    tally = Tally(lambda: many)
    for name in many:
        tally.on_left(stream_of(name))
    assert len(tally.models) == MAX_MODELS + 1
    assert sum(model.ends.total() for model in tally.models.values()) == len(many)


def test_the_own_time_of_a_request_is_without_the_broker_and_the_worker() -> None:
    times = Distribution((0.5, 2.0))
    stream = GenerationStream(stream_of().life, on_cancel=lambda _: None, on_flow=lambda *_: None, own_times=times)
    received = time.monotonic() - 1.0
    stream.sent()
    stream.feed(["a"], 1)
    assert 1.0 <= stream.own_time(received, whole=False) < 30.0
    assert sum(times.counts) == 1
