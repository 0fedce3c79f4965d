"""`broker-controller status`, `workers`, `models` and `top`, as programs, on a fleet of real processes."""

import json
import subprocess
import sys

from tests.acceptance.fleet import Fleet
from tests.waiting import eventually_sync


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "broker_controller", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_what_a_controller_sees_is_shown_as_tables_and_as_json(fleet: Fleet) -> None:
    controller = fleet.controller()
    for name in ("w1", "w2"):
        fleet.worker(name, "--slots", "3", model="m" * 60)
    controller.wait_for_workers("w1", "w2")
    whole = run("status", "--url", controller.url)
    assert whole.returncode == 0, whole.stderr
    for part in ("ready, dispatch queue", "connected", "2 ready", "0 running, 0 waiting", "w1", "w2", "m" * 60):
        assert part in whole.stdout
    (model,) = json.loads(run("models", "--json", "--url", controller.url).stdout)
    assert (model["workers"], model["slots"]) == (2, 6)
    row = run("models", "--url", controller.url + "/").stdout.splitlines()[1].split()
    assert row[:4] == ["m" * 60, "2", "6", "6"]
    workers = run("workers", "--url", controller.url).stdout.splitlines()
    assert [line.split()[:2] for line in workers[1:]] == [["w1", "ready"], ["w2", "ready"]]
    assert json.loads(run("status", "--json", "--url", controller.url).stdout)["controller"]["ready"] is True


def test_where_no_controller_is_a_sentence_says_so() -> None:
    for url in ("http://127.0.0.1:1", "no address"):
        answer = run("status", "--url", url)
        assert answer.returncode == 1
        assert url in answer.stderr
        assert "--url" in answer.stderr
        assert answer.stderr.count("\n") == 1


def test_top_goes_on_while_the_controller_is_away(fleet: Fleet) -> None:
    controller = fleet.controller()
    # `script` gives the program a terminal.
    command = f"{sys.executable} -m broker_controller top --interval 0.1 --url {controller.url}"
    with subprocess.Popen(
        ["script", "-qfec", command, "/dev/null"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as top:
        assert top.stdout is not None
        seen: list[str] = []

        def reads(text: str) -> bool:
            seen.append(top.stdout.read(200) if top.stdout else "")
            return text in "".join(seen)

        try:
            eventually_sync(lambda: reads("not connected") or reads("connected"))
            controller.process.kill()
            eventually_sync(lambda: reads("no controller answers"))
        finally:
            top.terminate()
