"""Real processes, as an operator starts, kills and restarts them."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.fleet import Fleet, echo_text
from tests.waiting import eventually_sync

PROMPT = "the quick brown fox"


def test_an_answer_comes_through_every_door(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1")
    controller.wait_for_workers("w1")
    assert controller.post("/list_models") == {"models": ["m"]}
    address = controller.post("/get_worker_address", {"model": "m"})["address"]
    assert address == controller.url
    last = controller.generate(PROMPT, 9)
    assert last["text"] == echo_text(PROMPT, 9)
    assert last["error_code"] == 0
    answer = controller.chat(PROMPT, 9)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == echo_text(PROMPT, 9)
    assert answer.headers["x-worker"] == "w1"
    assert controller.generate(PROMPT, 3, path="/worker/w1")["text"] == echo_text(PROMPT, 3)
    assert controller.post("/worker_get_status")["model_names"] == ["m"]


def test_a_killed_worker_is_seen_at_once_and_the_other_one_serves(fleet: Fleet) -> None:
    controller = fleet.controller()
    first, second = fleet.worker("w1"), fleet.worker("w2")
    controller.wait_for_workers("w1", "w2")
    first.kill()
    eventually_sync(lambda: controller.workers() == {"w1": "lost", "w2": "ready"}, within=10)
    assert [controller.chat(PROMPT, 2).headers["x-worker"] for _ in range(5)] == ["w2"] * 5
    assert second.returncode is None


def test_a_stream_goes_on_at_another_worker_when_its_own_is_killed(fleet: Fleet) -> None:
    controller = fleet.controller()
    workers = {name: fleet.worker(name, "--tokens-per-second", "40") for name in ("w1", "w2")}
    controller.wait_for_workers("w1", "w2")
    stream = controller.stream(PROMPT, 80)
    texts = [part["text"] for part in itertools.islice(stream, 10)]
    busy = next(worker for worker in controller.get("/status")["workers"] if worker["running"])
    workers[busy["name"]].kill()
    texts += [part["text"] for part in stream]
    assert texts[-1] == echo_text(PROMPT, 80)
    for earlier, later in itertools.pairwise(texts):
        assert later.startswith(earlier)


def test_a_worker_that_is_told_to_leave_finishes_first(fleet: Fleet) -> None:
    controller = fleet.controller()
    worker = fleet.worker("w1", "--tokens-per-second", "40")
    controller.wait_for_workers("w1")
    stream = controller.stream(PROMPT, 60)
    next(stream)
    worker.terminate()
    eventually_sync(lambda: controller.workers() == {"w1": "draining"}, within=10)
    *_, last = stream
    assert last["text"] == echo_text(PROMPT, 60)
    assert worker.wait() == 0
    eventually_sync(lambda: controller.workers() == {})


def test_of_two_workers_with_one_name_the_newer_stays(fleet: Fleet) -> None:
    controller = fleet.controller()
    older = fleet.worker("w1")
    controller.wait_for_workers("w1")
    time_of_start = time.monotonic()
    # Two announces within two seconds count as simultaneous; these are not.
    eventually_sync(lambda: time.monotonic() - time_of_start > 2.5)
    newer = fleet.worker("w1")
    assert older.wait() == 78
    assert "taken over" in older.output()
    controller.wait_for_workers("w1")
    assert newer.returncode is None
    assert controller.chat(PROMPT, 2).status_code == 200


def test_a_controller_that_restarts_knows_the_fleet_and_two_share_it(fleet: Fleet) -> None:
    first = fleet.controller()
    fleet.worker("w1")
    fleet.worker("w2", model="other")
    first.wait_for_workers("w1", "w2")
    second = fleet.controller()
    second.wait_for_workers("w1", "w2")
    first.process.kill()
    third = fleet.controller()
    third.wait_for_workers("w1", "w2")
    for controller in (second, third):
        assert controller.post("/list_models") == {"models": ["m", "other"]}
        assert controller.chat(PROMPT, 2, model="other").headers["x-worker"] == "w2"


def test_a_client_that_leaves_frees_the_slot(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--tokens-per-second", "5")
    controller.wait_for_workers("w1")
    stream = controller.stream(PROMPT, 1_000)
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator: this closes the connection
    assert controller.chat(PROMPT, 1).status_code == 200
    eventually_sync(lambda: controller.get("/status")["streams"]["running"] == 0)


def test_a_burst_waits_for_slots_and_all_are_served(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--slots", "2")
    fleet.worker("w2", "--slots", "2")
    controller.wait_for_workers("w1", "w2")
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda number: controller.chat(f"{PROMPT} {number}", 10), range(60)))
    assert [answer.status_code for answer in answers] == [200] * 60
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert texts == [echo_text(f"{PROMPT} {number}", 10) for number in range(60)]


def test_over_the_queues_bound_a_request_is_refused(fleet: Fleet) -> None:
    controller = fleet.controller("--queue-limit", "3")
    fleet.worker("w1", "--tokens-per-second", "2", "--queue-limit", "3")
    controller.wait_for_workers("w1")
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: controller.chat(PROMPT, 2), range(12)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses.count(200) >= 4
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == len(answers) - statuses.count(200) > 0
    for answer in refused:
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize("method", ["lottery", "shortest_queue"])
def test_methods_that_choose_use_every_worker_and_hand_out_its_address(fleet: Fleet, method: str) -> None:
    controller = fleet.controller("--dispatch-method", method)
    for name in ("w1", "w2"):
        fleet.worker(name, "--slots", "4")
    controller.wait_for_workers("w1", "w2")
    used = {controller.chat(PROMPT, 2).headers["x-worker"] for _ in range(30)}
    assert used == {"w1", "w2"}
    addresses = {controller.post("/get_worker_address", {"model": "m"})["address"] for _ in range(30)}
    assert addresses == {f"{controller.url}/worker/w1", f"{controller.url}/worker/w2"}
    assert controller.post("/get_worker_address", {"model": "nobody's"}) == {"address": ""}


def test_a_controller_told_to_leave_finishes_its_streams(fleet: Fleet) -> None:
    controller = fleet.controller()
    fleet.worker("w1", "--tokens-per-second", "40")
    controller.wait_for_workers("w1")
    stream = controller.stream(PROMPT, 60)
    next(stream)
    controller.process.terminate()
    *_, last = stream
    assert last["text"] == echo_text(PROMPT, 60)
    assert controller.process.wait() == 0
