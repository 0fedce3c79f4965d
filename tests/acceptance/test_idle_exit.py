"""A worker that leaves by itself when it has had nothing to do for a while, as on a machine that costs money."""

import threading

from tests.acceptance.fleet import Fleet, echo_text


def test_a_worker_without_work_leaves_and_one_that_works_stays(fleet: Fleet) -> None:
    controller = fleet.controller()
    idle = fleet.worker("idle", "--idle-exit", "1", model="a")
    busy = fleet.worker("busy", "--idle-exit", "1", "--tokens-per-second", "10", model="b")
    controller.wait_for_workers("idle", "busy")
    answers: list[str] = []

    def ask() -> None:
        answer = controller.chat("one two three", 60, model="b")
        answers.append(answer.json()["choices"][0]["message"]["content"])

    # Six seconds of work, which is longer than it may be idle.
    client = threading.Thread(target=ask)
    client.start()
    assert idle.wait() == 0
    assert "reason=drained" in idle.output()
    client.join(60)
    assert answers == [echo_text("one two three", 60)]
    assert busy.wait() == 0
    assert controller.workers() == {}
