"""What Prometheus reads at `/metrics`, of real processes."""

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.acceptance.fleet import Fleet, RunningController

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def samples(controller: RunningController) -> dict[tuple[str, ...], float]:
    """Values by name and labels, in the order of their names, without histograms' buckets."""
    families = read_text(httpx.get(f"{controller.url}/metrics", timeout=30).text)
    return {
        (sample.name.removeprefix("broker_controller_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def test_requests_workers_and_the_broker_are_counted(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--slots", "4")
    controller.wait_for_workers("w1")
    for _ in range(3):
        assert controller.chat("one two three four", 4).status_code == 200
    assert controller.chat("one two", 2, model="made-up").status_code == 404
    found = samples(controller)
    assert found["requests_total", "", "m", "complete"] == 3
    assert found["requests_total", "model_not_found", "other", "rejected"] == 1
    assert found["output_tokens_total", "m"] == 12
    assert found["attempts_total", "m"] == 3
    assert found["moves_total", "m"] == 0
    for histogram in ("queue_wait_seconds", "time_to_first_token_seconds", "request_duration_seconds"):
        assert found[f"{histogram}_count", "m"] == 3
        assert 0 < found[f"{histogram}_sum", "m"] < 60
    assert found["overhead_seconds_count",] == 3
    assert found["workers", "ready"] == 1
    assert found["slots", "free"] + found["slots", "taken"] == 4
    assert found["broker_up",] == found["ready",] == 1
    assert found["broker_blocked",] == found["broker_reconnects_total",] == found["streams", "running"] == 0
    assert found["process_resident_memory_bytes",] > 0


def test_a_scraper_that_asks_for_openmetrics_gets_it(fleet: Fleet) -> None:
    controller = fleet.controller()
    answer = httpx.get(f"{controller.url}/metrics", headers={"Accept": OPENMETRICS}, timeout=30)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = read_openmetrics(answer.text)  # type: ignore[no-untyped-call]
    assert any(family.name == "broker_controller_ready" for family in families)


def test_an_answer_tells_what_the_controller_itself_took_for_it(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1")
    controller.wait_for_workers("w1")
    for streams in (False, True):
        answer = controller.chat("one two", 2, stream=streams)
        assert 0 < float(answer.headers["X-Overhead-Ms"]) < 10_000
