"""Controllers under controllers, with real processes: two fleets on two prefixes, one a worker of the other."""

import secrets
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.acceptance.fleet import Fleet, RunningController, echo_text
from tests.processes import Processes
from tests.waiting import eventually_sync

PROMPT = "the quick brown fox"
NESTED = ("--http-worker-slots", "8", "--heartbeat-expiration", "60")


@pytest.fixture
def make_fleet(processes: Processes, broker_url: str, free_port: Callable[[], int]) -> Iterator[Callable[[], Fleet]]:
    with httpx.Client(timeout=60) as client:
        yield lambda: Fleet(processes, broker_url, f"t{secrets.token_hex(4)}", free_port, client)


def running(controller: RunningController) -> int:
    count: int = controller.get("/status")["streams"]["running"]
    return count


def bridged(controller: RunningController) -> dict[str, str]:
    """The HTTP workers that it knows, and what it does for them."""
    return {one["worker"]: one["state"] for one in controller.get("/status")["http_workers"]}


def test_a_fleet_is_a_worker_of_another_one(make_fleet: Callable[[], Fleet], free_port: Callable[[], int]) -> None:
    above, below = make_fleet(), make_fleet()
    parent = above.controller(*NESTED)
    below.worker("w1", "--slots", "4", "--tokens-per-second", "40")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    child = below.controller("--parent", parent.url, "--public-url", url, port=port)
    parent.wait_for_workers(url)

    # A model that comes later is told at once.
    below.worker("w2", model="other")
    eventually_sync(lambda: parent.post("/list_models") == {"models": ["m", "other"]})
    eventually_sync(lambda: bridged(parent) == {url: "bridging"})

    # An answer streams through both, and its id is in the logs of all.
    headers = {"X-Request-Id": "through-both"}
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 20, "stream": True}
    with httpx.stream("POST", f"{parent.url}/v1/completions", json=body, headers=headers, timeout=60) as response:
        chunks = [line for line in response.iter_lines() if '"text":' in line]
    assert len(chunks) > 5, "it comes piece by piece"
    assert response.headers["x-worker"] == url
    assert parent.generate(PROMPT, 9)["text"] == echo_text(PROMPT, 9)
    for controller in (parent, child):
        controller.process.wait_for_output("request=through-both")

    # Embeddings cross, too.
    asked = {"model": "m", "input": ["a text", "another one"]}
    vectors = [controller.post("/v1/embeddings", asked)["data"] for controller in (parent, child)]
    assert vectors[0] == vectors[1]
    assert len(vectors[0]) == 2

    # A client that leaves above frees the slot below.
    stream = parent.stream(PROMPT, 5_000)
    next(stream)
    assert running(child) == 1
    stream.close()  # type: ignore[attr-defined]  # a generator: this closes the connection
    eventually_sync(lambda: running(child) == 0)

    # An error below is the same text above.
    empty = httpx.post(f"{parent.url}/v1/completions", json=body | {"prompt": " ", "stream": False}, timeout=60)
    assert "the prompt is empty: there is no word to repeat" in empty.json()["error"]["message"]

    # Killed, it is noticed by the request that finds out; what a controller above has of its own goes on.
    above.worker("own", "--slots", "4")
    eventually_sync(lambda: parent.workers().get("own") == "ready")
    child.process.kill()
    for _ in range(6):
        assert parent.chat(PROMPT, 2).headers["x-worker"] == "own"
    eventually_sync(lambda: bridged(parent) == {url: "away"})

    # And back.
    child = below.controller("--parent", parent.url, "--public-url", url, port=port)
    eventually_sync(lambda: bridged(parent) == {url: "bridging"})
    eventually_sync(lambda: parent.chat(PROMPT, 2, model="other").status_code == 200)

    # Who leaves says nothing more.
    child.process.terminate()
    assert child.process.wait() == 0


def test_a_controller_is_no_worker_of_itself_nor_of_its_child(
    make_fleet: Callable[[], Fleet], free_port: Callable[[], int]
) -> None:
    fleet = make_fleet()
    controller = fleet.controller()
    port = controller.url.rpartition(":")[2]
    status = {"model_names": ["m"], "speed": 1, "queue_length": 0}
    for name, given in ((controller.url, status), (f"http://127.0.0.1:{port}", None)):
        body = {"worker_name": name, "check_heart_beat": True, "worker_status": given}
        answer = httpx.post(f"{controller.url}/register_worker", json=body)
        assert answer.status_code == 403, answer.text
        assert "it is this controller itself" in answer.json()["detail"]
    # One that has itself as its parent under another name says why that does not work, and serves.
    other = free_port()
    names = ("--parent", f"http://127.0.0.1:{other}", "--public-url", f"http://localhost:{other}")
    itself = fleet.controller(*names, port=other)
    itself.process.wait_for_output("parent does not answer as a controller .*itself")


def test_a_circle_that_nobody_saw_ends_in_one_error(make_fleet: Callable[[], Fleet]) -> None:
    """Two controllers that were told of each other by hand."""
    one, other = make_fleet().controller(*NESTED), make_fleet().controller(*NESTED)
    status = {"model_names": ["round"], "speed": 1, "queue_length": 0}
    for controller, worker in ((one, other), (other, one)):
        body = {"worker_name": worker.url, "check_heart_beat": False, "worker_status": status}
        assert httpx.post(f"{controller.url}/register_worker", json=body, timeout=30).status_code == 200
    eventually_sync(lambda: bridged(one) | bridged(other) == {one.url: "bridging", other.url: "bridging"})
    last = one.generate(PROMPT, 3, model="round")
    assert last["error_code"] != 0
    assert "come through 9 controllers" in last["text"]
