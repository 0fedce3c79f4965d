"""`workers-shim openai` on the command line."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.odd_http import OddServer, odd_server
from tests.unit.test_openai_models import LLAMACPP, VLLM, Pages
from workers_shim import Worker, cli

KEY = "sk-s3cret"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Workers that the program would have run."""
    workers: list[Worker] = []
    for name in [name for name in os.environ if name.startswith("WORKERS_SHIM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(Worker, "run", lambda worker: workers.append(worker))
    monkeypatch.setattr(cli, "log_to_stderr", lambda *_: None)
    return workers


@pytest.fixture
async def server() -> AsyncIterator[OddServer]:
    async with odd_server(Pages(VLLM).answer) as server:
        yield server


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(cli.main, ["openai", *arguments])


async def test_a_url_is_all_that_it_needs(server: OddServer, started: list[Worker]) -> None:
    assert await run("--url", server.url) == 0

    [worker] = started
    [card] = worker.models
    assert (card.name, card.context_length, worker.config.slots) == ("m", 4096, 16)
    assert set(card.abilities) == {"chat", "completion", "embedding"}


async def test_what_the_server_says_of_its_slots_counts_unless_the_user_says_it(
    server: OddServer, started: list[Worker]
) -> None:
    server.answer = Pages(LLAMACPP).answer
    assert await run("--url", server.url) == 0
    assert await run("--url", server.url, "--slots", "3", "--abilities", "chat") == 0

    first, second = started
    assert (first.config.slots, second.config.slots) == (4, 3)
    assert "vision" in first.models[0].abilities
    assert second.models[0].abilities == ("chat",)


async def test_models_are_named_and_renamed(server: OddServer, started: list[Worker]) -> None:
    assert await run("--url", server.url, "--model", "mine=m", "--model", "other") == 0

    cards = {card.name: card.context_length for card in started[0].models}
    assert cards == {"mine": 4096, "other": None}


async def test_the_key_comes_from_a_file_or_a_variable(
    server: OddServer, started: list[Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKERS_SHIM_API_KEY", KEY)
    assert await run("--url", server.url) == 0
    assert {asked.fields.get("authorization") for asked in server.asked} == {f"Bearer {KEY}"}

    server.asked.clear()
    (tmp_path / "key").write_text("another\n")
    monkeypatch.delenv("WORKERS_SHIM_API_KEY")
    assert await run("--url", server.url, "--api-key-file", str(tmp_path / "key")) == 0
    assert "Bearer another" in {asked.fields.get("authorization") for asked in server.asked}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--url http://localhost:8000/v1"),
        (["--url", "localhost:8000"], "has to look like"),
        (["--url", "http://x/v1", "--api-key-file", "/no/such/key"], "API key cannot be read"),
        (["--url", "http://x/v1", "--api-key-file", __file__], "one line of ASCII"),
    ],
)
async def test_what_cannot_be_is_said_in_one_line(
    arguments: list[str], words: str, started: list[Worker], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(*arguments) == 2

    assert words in capsys.readouterr().err
    assert not started


async def test_a_server_without_a_list_needs_names(
    server: OddServer, started: list[Worker], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = Pages({}).answer
    assert await run("--url", server.url) == 2
    message = capsys.readouterr().err
    assert "--model NAME" in message
    assert "ends with /v1" not in message
    assert await run("--url", server.url.removesuffix("/v1")) == 2
    assert "ends with /v1" in capsys.readouterr().err
    assert await run("--url", server.url, "--model", "m") == 0


def test_without_its_server_it_says_so_keeps_waiting_and_leaves_when_told_to() -> None:
    command = [sys.executable, "-m", "workers_shim", "openai", "--url", "http://127.0.0.1:1/v1"]
    environment = os.environ | {"WORKERS_SHIM_API_KEY": KEY}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert re.search(r"waiting for the server url=http://127\.0\.0\.1:1/v1 reason=.*cannot be reached", line)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait(30) == 130
        finally:
            process.kill()
    assert "Traceback" not in rest
    assert KEY not in line + rest
