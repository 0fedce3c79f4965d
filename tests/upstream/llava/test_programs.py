"""LLaVA's client programs against our controller, and its worker's own registration and heartbeats."""

import base64
from pathlib import Path

import pytest

from tests.acceptance.fleet import Fleet, RunningController, echo_text
from tests.integration.llamacpp_images import BLUE, LANGUAGE_WIDTH, RED
from tests.integration.tiny_projector import write_projector
from tests.upstream.llava.programs import PIXEL, LLaVA
from tests.upstream.programs import HAS_LLAMACPP
from tests.upstream.registering import assert_registers_again
from tests.waiting import eventually_sync


@pytest.fixture(scope="module", params=["queue", "lottery", "shortest_queue"])
def controller(request: pytest.FixtureRequest, fleet: Fleet, llava: LLaVA) -> RunningController:
    """With a worker of ours for `m`, and one of LLaVA's for `llava-v1.5-7b`."""
    started = fleet.controller("--dispatch-method", request.param)
    if request.param == "queue":
        fleet.worker("w1", "--slots", "2")
    llava.worker(started.url, model="llava-v1.5-7b")
    eventually_sync(lambda: set(started.post("/list_models")["models"]) == {"llava-v1.5-7b", "m"})
    return started


@pytest.mark.parametrize("model", ["m", "llava-v1.5-7b"])
def test_its_test_message_prints_the_answer(controller: RunningController, llava: LLaVA, model: str) -> None:
    arguments = ("--controller-address", controller.url, "--model-name", model, "--message", "one two")
    program = llava.run("llava.serve.test_message", *arguments, "--max-new-tokens", "6")

    assert program.wait() == 0, program.output()
    # It writes the last word of each object over the one before; the prompt begins "A chat between a curious user".
    assert program.output().split()[-1] == "user"
    assert "USER:" in program.output()


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        ("m", "A chat between a curious user and an artificial intelligence assistant."),
        ("llava-v1.5-7b", "A chat between a curious human and an artificial intelligence assistant."),
    ],
)
def test_its_page_shows_the_answer_as_it_grows(
    controller: RunningController, llava: LLaVA, model: str, prompt: str
) -> None:
    page = llava.gradio(controller.url)

    shown = llava.chat(page, model, "one two")

    assert shown[-1] == [["one two", echo_text(prompt, 8)]]
    assert len(shown) > 2


def test_its_page_sends_an_image_to_a_worker_of_its_own(
    controller: RunningController, llava: LLaVA, tmp_path: Path
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(PIXEL)
    page = llava.gradio(controller.url)

    shown = llava.chat(page, "llava-v1.5-7b", "what is it", str(image))

    assert "data:image/jpeg;base64" in shown[-1][0][0]
    assert shown[-1][0][1].endswith(" +image")


@pytest.mark.skipif(not HAS_LLAMACPP, reason="xllamacpp is not installed")
def test_its_page_shows_what_a_gguf_sees(fleet: Fleet, llava: LLaVA, tmp_path: Path) -> None:
    started = fleet.controller()
    projector = write_projector(tmp_path / "mmproj.gguf", language_width=LANGUAGE_WIDTH)
    fleet.llamacpp_worker("sees", "--mmproj", str(projector), "--context-length", "1024")
    eventually_sync(lambda: "sees" in started.post("/list_models")["models"], within=60)
    page = llava.gradio(started.url)
    for name, image in (("red", RED), ("blue", BLUE)):
        (tmp_path / f"{name}.png").write_bytes(base64.b64decode(image.partition(",")[2]))

    red, blue = (
        llava.chat(page, "sees", "what is it", str(tmp_path / f"{name}.png"), temperature=0.0)
        for name in ("red", "blue")
    )

    assert red[-1][0][1] != blue[-1][0][1]


def test_its_page_waits_for_a_slot_longer_than_it_waits_for_a_byte(fleet: Fleet, llava: LLaVA) -> None:
    started = fleet.controller()
    fleet.worker("slow", "--tokens-per-second", "2", model="slow")
    # The file's tests share one fleet: others are there, too.
    eventually_sync(lambda: started.workers().get("slow") == "ready")
    page = llava.gradio(started.url)
    first = started.stream("occupy the only slot", 40, model="slow")
    next(first)

    # It gives up after 10 s of silence, and the slot is taken for twice as long.
    shown = llava.chat(page, "slow", "one two", tokens=2)

    assert shown[-1] == [["one two", "A chat"]]
    *_, last = first
    assert last["text"] == echo_text("occupy the only slot", 40)


def test_its_register_worker_registers_a_worker(fleet: Fleet, llava: LLaVA) -> None:
    started = fleet.controller()
    url, _ = llava.worker(started.url, "--no-register", model="registered")
    program = llava.run("llava.serve.register_worker", "--controller-address", started.url, "--worker-name", url)

    assert program.wait() == 0, program.output()
    eventually_sync(lambda: started.workers().get(url) == "ready")
    assert started.generate("one two", 3, model="registered")["text"] == "one two one"


def test_its_worker_registers_again_by_itself_at_a_controller_that_has_started_anew(fleet: Fleet, llava: LLaVA) -> None:
    assert_registers_again(fleet, lambda url: llava.worker(url, model="other")[0])
