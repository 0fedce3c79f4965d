"""`workers-shim check`: what a person reads of an engine that works, and of one that does not."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_wire.messages import Operation
from workers_shim import Chunk, Lost, Request, RequestError, Unavailable, Usage, Worker, cli
from workers_shim.check import make_body
from workers_shim.check_printer import Printer, shown


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WORKERS_SHIM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cli, "log_to_stderr", lambda *_: None)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that `run mine:worker` finds."""
    monkeypatch.chdir(tmp_path)
    worker = Worker("w", slots=2)
    module = type(sys)("mine")
    module.worker = worker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return worker


def facts(output: str) -> dict[str, str]:
    return dict(found.groups() for found in re.finditer(r"^(\w+) {2,}(.+)$", output, re.MULTILINE))  # type: ignore[misc]


def test_an_engine_that_works_is_shown_answering(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["check", "echo", "--model", "a", "--model", "b", "--prompt", "one two", "--max-tokens", "3"])

    output = capsys.readouterr().out
    assert code == 0
    assert "\none two one\n" in output
    said = facts(output)
    assert said["model"].startswith("a: chat, completion")
    assert "1 more" in said["model"]
    assert said["request"] == "chat, streamed: one two"
    assert said["finish_reason"] == "length"
    assert said["usage"] == "2 tokens of the prompt, 3 of the answer"
    assert re.fullmatch(r"first token after [\d.]+ s, then [\d.]+ tokens/s; [\d.]+ s in all", said["time"])


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (RequestError("too long"), "refuses the request"),
        (Unavailable("restarting"), "another worker would be tried"),
        (Lost("gone"), "died in the middle"),
        (OSError("boom"), "the engine failed"),
    ],
)
def test_an_engine_that_fails_is_said_to_in_words(
    error: Exception, meaning: str, mine: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    @mine.model("m")
    def generate(request: Request) -> Iterator[str]:
        yield "so far"
        raise error

    assert cli.main(["check", "run", "mine:worker"]) == 1
    output = capsys.readouterr().out
    assert "so far" in output
    assert str(error) in facts(output)["failed"]
    assert meaning in facts(output)["meaning"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--ask", "b"], ("b", Operation.COMPLETION, True, "p", 5)),
        (["--whole"], ("a", Operation.COMPLETION, False, "p", 5)),
        (["--operation", "llava"], ("a", Operation.LLAVA, True, "p", 5)),
    ],
)
def test_the_request_is_of_the_kind_that_was_asked_for(
    options: list[str], expected: tuple[object, ...], mine: Worker
) -> None:
    asked: list[tuple[object, ...]] = []

    def generate(request: Request) -> Iterator[str]:
        asked.append((request.model, request.operation, request.stream, request.prompt, request.max_tokens))
        yield "x"

    for name in ("a", "b"):
        mine.add_model(name, generate, abilities=["completion"])
    assert cli.main(["check", "run", "mine:worker", "--prompt", "p", "--max-tokens", "5", *options]) == 0

    assert asked == [expected]


def test_a_model_that_is_not_there_is_said_to_be_so(mine: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    mine.add_model("m", lambda _: iter("x"))

    assert cli.main(["check", "run", "mine:worker", "--ask", "n"]) == 2
    assert "no model 'n'; served: m" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["openai", "--url", "http://127.0.0.1:1/v1"], ["http", "--url", "http://127.0.0.1:1"]]
)
def test_a_server_that_is_away_is_not_waited_for(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", *command]) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_an_interrupted_check_stops_the_engine() -> None:
    command = [sys.executable, "-m", "workers_shim", "check", "echo", "--model", "a", "--tokens-per-second", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while not process.stdout.readline().startswith("request"):
                pass
            # The first letter of the answer, behind an empty line.
            assert process.stdout.read(2) == "\nS"
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            assert process.wait(30) == 1
        finally:
            process.kill()
    assert "was told to stop" in rest


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"choices": [{"delta": {"role": "assistant", "content": "a"}}]}, "a"),
        ({"choices": [{"message": {"content": "b"}}]}, "b"),
        ({"choices": [{"text": "c"}]}, "c"),
        ({"choices": [{"delta": {"tool_calls": [1]}}]}, '{"tool_calls":[1]}\n'),
        ({"choices": []}, ""),
        ({"data": [{"embedding": [1, 2, 3]}]}, "a vector of 3 numbers\n"),
        ({"object": "embedding", "embedding": [1, 2]}, "a vector of 2 numbers\n"),
        ({"x": 1}, '{"x":1}'),
    ],
)
def test_of_an_engines_own_json_the_text_is_shown(payload: dict[str, object], text: str) -> None:
    assert shown(Chunk(payload=json.dumps(payload).encode())) == text


def test_what_a_terminal_would_obey_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    Printer().offer("a\x1b[2J\n\u00e9")

    assert capsys.readouterr().out == "a\N{REPLACEMENT CHARACTER}[2J\n\u00e9"


def test_without_counts_chunks_are_counted() -> None:
    printer = Printer()
    printer.end("stop", None)
    assert dict(printer.report())["usage"] == "the engine counts no tokens; 0 chunks"
    printer.offer("a")
    printer.end("stop", Usage(1, 1))
    assert "1 of the answer" in dict(printer.report())["usage"]


def test_what_is_cancelled_is_told_to_whoever_asks_later() -> None:
    printer, told = Printer(), threading.Event()
    printer.cancel()
    printer.on_cancelled(told.set)

    assert told.is_set()
    assert not printer.released_within(0)


def test_an_embedding_is_asked_for_with_its_input_alone() -> None:
    assert json.loads(make_body("m", Operation.EMBEDDING, "x", 5, streams=False)) == {"model": "m", "input": "x"}
