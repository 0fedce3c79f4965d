"""FastChat's client programs against our controller, and its worker's own registration and heartbeats."""

import re

import pytest

from tests.acceptance.fleet import Fleet, RunningController, echo_text
from tests.upstream.fastchat.programs import FastChat
from tests.upstream.registering import assert_registers_again


@pytest.fixture(scope="module", params=["queue", "lottery"])
def controller(request: pytest.FixtureRequest, fleet: Fleet) -> RunningController:
    started = fleet.controller("--dispatch-method", request.param)
    if request.param == "queue":
        fleet.worker("w1", "--slots", "2")
    started.wait_for_workers("w1")
    return started


def test_its_throughput_test_counts_the_words_of_every_answer(
    controller: RunningController, fastchat: FastChat
) -> None:
    arguments = ("--controller-address", controller.url, "--model-name", "m", "--max-new-tokens", "20")
    program = fastchat.start("fastchat.serve.test_throughput", *arguments, "--n-thread", "6", "--test-dispatch")

    assert program.wait() == 0, program.output()
    assert "Models: ['m']" in program.output()
    assert len(re.findall(rf"thread \d goes to {controller.url}", program.output())) == 6
    assert float(re.findall(r"throughput: ([\d.]+) words/s", program.output())[0]) > 0


def test_its_test_message_prints_the_answer(controller: RunningController, fastchat: FastChat) -> None:
    arguments = ("--controller-address", controller.url, "--model-name", "m", "--message", "one two")
    program = fastchat.start("tests.upstream.without_torch", "fastchat.serve.test_message", *arguments)

    assert program.wait() == 0, program.output()
    # The words of the template that FastChat uses for models that it does not know, from the first one on.
    assert echo_text("A chat between a curious human and an", 6) in program.output()


def test_its_worker_registers_again_by_itself_at_a_controller_that_has_started_anew(
    fleet: Fleet, fastchat: FastChat
) -> None:
    assert_registers_again(fleet, lambda url: fastchat.worker(url, model="other")[0])
