"""The logs of both programs: for people, or as JSON."""

import json
from typing import Any

from tests.acceptance.fleet import Fleet
from tests.processes import Process
from tests.waiting import eventually_sync


def events(process: Process, name: str) -> list[dict[str, Any]]:
    """Of this name, in a log that is JSON throughout."""
    lines = [json.loads(line) for line in process.output().splitlines()]
    return [line for line in lines if line["event"] == name]


def test_as_json_an_access_line_has_the_facts_of_the_answer(fleet: Fleet) -> None:
    controller = fleet.controller("--log-format", "json")
    worker = fleet.worker("w1", "--log-format", "json")
    controller.wait_for_workers("w1")
    assert controller.chat("one two three", 3, stream=True).status_code == 200
    assert controller.chat("one", 1, model="nobody's").status_code == 404

    def generated() -> list[dict[str, Any]]:
        lines = [line for line in events(controller.process, "answered") if "model" in line]
        return lines if len(lines) == 2 else []

    line, refused = eventually_sync(generated)
    assert (line["model"], line["worker"], line["outcome"], line["tokens"]) == ("m", "w1", "complete", 3)
    assert 0 <= line["wait_ms"] <= line["ttft_ms"] <= line["ms"]
    assert line["level"] == "INFO"
    assert line["status"] == 200
    assert (refused["status"], refused["outcome"], refused["ttft_ms"]) == (404, "model_not_found", None)
    assert events(controller.process, "worker joined")[0]["worker"] == "w1"
    worker.terminate()
    assert worker.wait() == 0
    assert events(worker, "worker left")
