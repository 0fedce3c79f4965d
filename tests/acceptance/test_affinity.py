"""Dispatch by affinity, with real processes: a session stays where its cache is, unless that worker is gone or busy."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, closing

import httpx
import pytest

from broker_controller.held_port import HeldPort
from tests.acceptance.fleet import Fleet, RunningController
from tests.processes import Process, Processes
from tests.waiting import eventually_sync

PROMPT = "the quick brown fox"
WORKER = ("--slots", "2", "--tokens-per-second", "50")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, broker_url: str, client: httpx.Client) -> Iterator[Fleet]:
    """One for all tests of this module, each of which leaves it as it was."""
    processes = Processes(tmp_path_factory.mktemp("fleet"))
    prefix = f"t{secrets.token_hex(4)}"
    with ExitStack() as ports:
        try:
            yield Fleet(processes, broker_url, prefix, lambda: ports.enter_context(closing(HeldPort())).number, client)
        finally:
            processes.end()


@pytest.fixture(scope="module")
def workers(fleet: Fleet) -> dict[str, Process]:
    return {name: fleet.worker(name, *WORKER) for name in ("w1", "w2")}


@pytest.fixture(scope="module")
def controller(fleet: Fleet, workers: dict[str, Process]) -> RunningController:
    controller = fleet.controller("--dispatch-method", "affinity")
    controller.wait_for_workers(*workers)
    return controller


def asked(controller: RunningController, client: httpx.Client, headers: dict[str, str], **body: object) -> str:
    """Who answers one request."""
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": PROMPT}]} | body
    answer = client.post(f"{controller.url}/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-worker"]


def test_a_session_stays_at_its_worker_and_sessions_are_spread(
    controller: RunningController, client: httpx.Client
) -> None:
    served = {name: {asked(controller, client, {"X-Session-Id": name}) for _ in range(6)} for name in "abcdefgh"}
    assert all(len(workers) == 1 for workers in served.values()), served
    assert {worker for workers in served.values() for worker in workers} == {"w1", "w2"}
    by_user = [asked(controller, client, {}, user="somebody") for _ in range(6)]
    assert len(set(by_user)) == 1


def test_a_chat_that_goes_on_is_known_by_its_text(controller: RunningController, client: httpx.Client) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two three"}]
    first = asked(controller, client, {}, messages=messages)
    for turn in range(5):
        messages += [{"role": "assistant", "content": "one"}, {"role": "user", "content": f"and {turn}"}]
        assert asked(controller, client, {}, messages=messages) == first


def test_another_controller_draws_the_same_worker(
    fleet: Fleet, controller: RunningController, client: httpx.Client
) -> None:
    second = fleet.controller("--dispatch-method", "affinity")
    second.wait_for_workers("w1", "w2")
    for name in "abcdefgh":
        headers = {"X-Session-Id": name}
        assert asked(controller, client, headers) == asked(second, client, headers)


def test_a_session_whose_worker_died_goes_on_at_another_one_and_stays_there(
    fleet: Fleet, controller: RunningController, workers: dict[str, Process], client: httpx.Client
) -> None:
    headers = {"X-Session-Id": "s"}
    first = asked(controller, client, headers)
    (other,) = set(workers) - {first}
    workers[first].kill()
    eventually_sync(lambda: controller.workers()[first] == "lost")
    assert [asked(controller, client, headers) for _ in range(3)] == [other] * 3
    workers[first] = fleet.worker(first, *WORKER)
    controller.wait_for_workers("w1", "w2")
    assert [asked(controller, client, headers) for _ in range(3)] == [other] * 3, "its cache is the warm one by now"


def test_a_busy_worker_spills_and_who_took_over_is_preferred_from_then_on(
    controller: RunningController, workers: dict[str, Process], client: httpx.Client
) -> None:
    headers = {"X-Session-Id": "of a busy worker"}
    first = asked(controller, client, headers)
    (other,) = set(workers) - {first}
    busy = [controller.stream(PROMPT, 5_000, path=f"/worker/{first}") for _ in range(2)]
    for stream in busy:
        next(stream)
    eventually_sync(lambda: load_of(controller, first) >= 2)
    assert asked(controller, client, headers) == other
    for stream in busy:
        stream.close()  # type: ignore[attr-defined]  # a generator: this closes the connection
    eventually_sync(lambda: load_of(controller, first) == 0)
    assert asked(controller, client, headers) == other, "its cache is the warm one by now"


def test_an_old_client_that_asks_for_an_address_gets_the_controllers_own(controller: RunningController) -> None:
    assert controller.post("/get_worker_address", {"model": "m"}) == {"address": controller.url}


def load_of(controller: RunningController, name: str) -> int:
    loads: dict[str, int] = {worker["name"]: worker["load"] for worker in controller.get("/status")["workers"]}
    return loads[name]
