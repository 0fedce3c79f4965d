"""Our controllers under LLaVA's and above it, and its workers behind `workers-shim http`."""

import base64
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.acceptance.fleet import Fleet, echo_text
from tests.upstream.llava.programs import PIXEL, LLaVA
from tests.upstream.programs import models_of, post
from tests.waiting import eventually_sync


@pytest.mark.parametrize("method", ["lottery", "shortest_queue"])
def test_a_fleet_of_ours_is_a_worker_of_llavas_controller(
    fleet: Fleet, llava: LLaVA, hold_port: Callable[[], int], method: str
) -> None:
    parent = llava.controller(method)
    fleet.worker(f"w-{method}", "--slots", "4", model=method)
    port = hold_port()
    ours = f"http://localhost:{port}"
    child = fleet.controller("--parent", parent, "--public-url", ours, port=port)
    eventually_sync(lambda: method in models_of(parent))
    assert post(parent, "/get_worker_address", {"model": method}) == {"address": ours}

    # Its test client goes to the address that it is told, which is ours.
    arguments = ("--controller-address", parent, "--model-name", method, "--message", "one two")
    program = llava.run("llava.serve.test_message", *arguments, "--max-new-tokens", "6")
    assert program.wait() == 0, program.output()
    assert program.output().split()[-1] == "user"

    # Killed, it is dropped when LLaVA looks; started again, it is back by itself.
    child.process.kill()
    post(parent, "/refresh_all_workers")
    assert models_of(parent) == []
    fleet.controller("--parent", parent, "--public-url", ours, port=port)
    eventually_sync(lambda: method in models_of(parent))


def test_llavas_controller_and_its_worker_behind_nat_are_workers_of_ours(fleet: Fleet, llava: LLaVA) -> None:
    theirs = llava.controller("shortest_queue")
    worker, _ = llava.worker(theirs, model="llava-v1.5-7b")
    eventually_sync(lambda: models_of(theirs) == ["llava-v1.5-7b"])
    ours = fleet.controller()
    registration = {"worker_name": theirs, "check_heart_beat": False}
    assert httpx.post(f"{ours.url}/register_worker", json=registration, timeout=60).status_code == 200
    fleet.http_worker(worker, "behind-nat", "--model", "hidden=llava-v1.5-7b")
    eventually_sync(lambda: {theirs, "behind-nat"} <= ours.workers().keys(), within=60)

    image = base64.b64encode(PIXEL).decode()
    for model, answered_by in (("llava-v1.5-7b", theirs), ("hidden", "behind-nat")):
        assert ours.generate("one two", 5, model=model)["text"] == echo_text("one two", 5)
        question: list[dict[str, Any]] = [
            {"type": "text", "text": "what is it"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        ]
        chat = ours.post(
            "/v1/chat/completions",
            {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 3},
        )
        assert chat["choices"][0]["message"]["content"].endswith(" +image"), answered_by
        failed = ours.chat("!error", 3, model=model)
        assert answered_by in failed.json()["error"]["message"]
        assert failed.status_code == 500
