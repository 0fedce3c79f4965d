"""The program `workers-shim`: what can be asked of it, and what it says when that cannot be."""

import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workers_shim import Worker, cli
from workers_shim.options import SettingError
from workers_shim.settings import parse

NOBODY_LISTENS = "amqp://localhost:1/"
PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WORKERS_SHIM_") or name == "AMQP_URL"]:
        monkeypatch.delenv(name)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Workers that the program would have run."""
    workers: list[Worker] = []
    monkeypatch.setattr(Worker, "run", lambda worker: workers.append(worker))
    monkeypatch.setattr(cli, "log_to_stderr", lambda *_: None)
    return workers


def test_the_command_line_reaches_the_worker(started: list[Worker]) -> None:
    command = (
        "echo --model a --model b --name w-1 --slots 3 --speed 2.5 --drain-timeout 7 --tokens-per-second 9"
        " --broker-url amqp://h1,amqp://h2 --broker-ca ca.pem --broker-cert c.pem --broker-key k.pem --prefix p"
        " --queue-limit 9 --queue-type quorum --grace 4 --idle-exit 90"
    )
    assert cli.main(command.split()) == 0

    [worker] = started
    config = worker.config
    assert [card.name for card in worker.models] == ["a", "b"]
    assert (config.name, config.slots, config.speed) == ("w-1", 3, 2.5)
    assert (config.drain_timeout, config.grace, config.idle_exit) == (7.0, 4.0, 90.0)
    assert (config.broker_url, config.prefix) == ("amqp://h1,amqp://h2", "p")
    assert (config.bounds.max_length, config.bounds.type) == (9, "quorum")
    assert config.tls is not None
    assert (config.tls.ca, config.tls.certificate, config.tls.key) == (Path("ca.pem"), Path("c.pem"), Path("k.pem"))


def test_what_is_not_said_has_its_default(started: list[Worker]) -> None:
    assert cli.main(["echo", "--model", "a"]) == 0

    config = started[0].config
    assert re.fullmatch(rf".+-{os.getpid()}-[0-9a-f]{{6}}", config.name)
    assert (config.slots, config.speed, config.prefix, config.tls, config.grace) == (1, 1.0, "bc", None, 30.0)
    assert config.idle_exit is None
    assert config.broker_url == "amqp://guest:guest@localhost:5672/"


def test_variables_stand_in_for_options_and_options_win(started: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS_SHIM_MODEL", "a\nb, c\n")
    monkeypatch.setenv("WORKERS_SHIM_SLOTS", "4")
    monkeypatch.setenv("WORKERS_SHIM_NAME", "from-the-environment")
    monkeypatch.setenv("AMQP_URL", "amqp://broker/")

    assert cli.main(["echo", "--name", "from-the-line"]) == 0
    assert cli.main(["echo", "--model", "d", "--broker-url", "amqp://other/"]) == 0

    first, second = started
    assert [card.name for card in first.models] == ["a", "b, c"]
    assert (first.config.slots, first.config.name) == (4, "from-the-line")
    assert first.config.broker_url == "amqp://broker/"
    assert [card.name for card in second.models] == ["d"]
    assert (second.config.name, second.config.broker_url) == ("from-the-environment", "amqp://other/")


def test_an_empty_address_of_the_broker_is_one_not_given(
    started: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["echo", "--model", "a", "--broker-url", ""]
    assert cli.main(command) == 0
    monkeypatch.setenv("AMQP_URL", "amqp://broker/")
    assert cli.main(command) == 0
    monkeypatch.setenv("WORKERS_SHIM_BROKER_URL", "amqp://other/")
    assert cli.main(command) == 0

    urls = [worker.config.broker_url for worker in started]
    assert urls == ["amqp://guest:guest@localhost:5672/", "amqp://broker/", "amqp://other/"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["echo"], "--model NAME"),
        (["echo", "--model", "a", "--slots", "0"], "slots has to be at least 1, not 0"),
        (["echo", "--model", "a", "--speed", "-1"], "speed has to be 0 or more"),
        (["echo", "--model", "a", "--queue-limit", "0"], "limit of a queue has to be at least 1"),
        (["echo", "--model", "a", "--prefix", "a b"], "prefix 'a b' is refused"),
        (["echo", "--model", "a", "--tokens-per-second", "0"], "tokens per second have to be more than 0"),
        (["echo", "--model", "a", "--drain-timeout", "0"], "drain_timeout has to be more than 0"),
        (["echo", "--model", "a", "--grace", "0"], "grace has to be more than 0"),
        (["echo", "--model", "a", "--idle-exit", "0"], "idle_exit has to be more than 0"),
        (["llamacpp", "--gguf", "/no/such.gguf"], "there is no model file /no/such.gguf"),
        (["llamacpp", "--gguf", __file__], "is not a GGUF file"),
        (["llamacpp", "--mmproj", "a.gguf", "--embeddings", "mean"], "leave it, or --embeddings, out"),
        (["transformers", "--model", "a"], "say which model to load: --model-path PATH"),
        (["run", "nothing"], "my_module:worker"),
        (["run", "no_such_module_at_all:worker"], "there is no module 'no_such_module_at_all'"),
        (["run", "no_such_module_at_all.inside:worker"], "there is no module 'no_such_module_at_all.inside'"),
        (["run", "json:worker"], "'worker' in module 'json' has to be a Worker or a function, it is nothing"),
        (["run", "json:__name__"], "it is a str"),
        (["run", "json:dumps"], "--model NAME"),
        (["http"], "--url http://localhost:21002"),
        (["http", "--url", "localhost:21002"], "is not the address of an HTTP worker"),
    ],
)
def test_what_cannot_be_started_is_said_in_one_line(
    command: list[str], words: str, started: list[Worker], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command) == 2

    assert not started
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("workers-shim: ")
    assert words in line


@pytest.mark.parametrize(
    "command",
    [["echo", "--model", "a", "--name", "not allowed"], ["echo", "--model", ""], ["echo", "--slots", "x"], []],
)
def test_what_argparse_finds_ends_with_its_usage(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(command)

    assert exit_.value.code == 2
    assert "usage: workers-shim" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "text"),
    [("SLOTS", "many"), ("LOG_LEVEL", "loud"), ("NAME", "not allowed"), ("ALLOW_KILL", "maybe"), ("MODEL", "a\x01b")],
)
def test_a_variable_that_cannot_be_used_is_named(variable: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"WORKERS_SHIM_{variable}", text)

    with pytest.raises(SettingError, match=f"WORKERS_SHIM_{variable}"):
        parse(["echo"])


def test_a_worker_of_the_users_own_is_run_with_what_the_command_line_says(
    started: list[Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_worker.py").write_text(
        "from workers_shim import Worker\n"
        "mine = Worker('from-the-module', slots=3)\n"
        "mine.add_model('m', lambda request: iter('abc'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    assert cli.main(["run", "my_own_worker:mine", "--name", "from-the-line"]) == 0

    [worker] = started
    assert (worker.config.name, worker.config.slots) == ("from-the-line", 3)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working directory, with a function and a Worker."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "from workers_shim import Worker\n"
        "def generate(request):\n"
        "    yield 'so far'\n"
        "worker = Worker()\n"
        "worker.add_model('m', generate)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_function_is_run_under_the_names_that_the_command_line_says(started: list[Worker], own_module: str) -> None:
    command = ["run", f"{own_module}:generate", "--model", "a", "--model", "b", "--yields", "cumulative"]
    assert cli.main([*command, "--slots", "3"]) == 0

    [worker] = started
    assert [card.name for card in worker.models] == ["a", "b"]
    assert worker.config.slots == 3


def test_a_worker_of_the_users_own_has_its_models_already(
    started: list[Worker], own_module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", f"{own_module}:worker", "--model", "a"]) == 2

    assert not started
    assert "a Worker has its models already" in capsys.readouterr().err


def test_an_engine_whose_package_is_not_installed_says_how_to_get_it(
    started: list[Worker], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("workers_shim.engines.http")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx", None)

    assert cli.main(["http", "--url", "http://localhost:1"]) == 2

    assert "pip install 'broker-controller[http]'" in capsys.readouterr().err


def test_ctrl_c_before_the_worker_lives_ends_without_a_traceback(
    started: list[Worker], own_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(worker: Worker) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "run", interrupt)

    assert cli.main(["run", f"{own_module}:worker"]) == 130


def test_what_a_users_module_lacks_itself_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worker_that_lacks.py").write_text("import something_not_installed\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(cli, "log_to_stderr", lambda *_: None)

    with pytest.raises(ModuleNotFoundError, match="something_not_installed"):
        cli.main(["run", "worker_that_lacks:worker"])


def test_an_engine_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, started: list[Worker], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    assert cli.main(["transformers", "--model-path", "/no/such"]) == 2

    assert not started
    assert "pip install 'broker-controller[transformers]'" in capsys.readouterr().err


def test_help_is_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["llamacpp", "--help"])

    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if re.fullmatch(r"\w+:", line)] == [
        "options:",
        "models:",
        "worker:",
        "broker:",
    ]


def test_a_log_line_stays_one_line() -> None:
    script = (
        "import logging, broker_wire.log_lines as l; l.log_to_stderr('info'); logging.info('a %s', 'x\\ny\\x1b[2J')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True)

    [line] = done.stderr.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO a x\\ny\\x1b\[2J", line)
    assert logging.getLogger().level != logging.NOTSET


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_without_a_broker_it_says_so_keeps_trying_and_leaves_when_told_to(signal_: signal.Signals) -> None:
    command = [sys.executable, "-m", "workers_shim", "echo", "--model", "a", "--broker-url", NOBODY_LISTENS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert "nothing listens at amqp://" in line
            assert process.poll() is None
            process.send_signal(signal_)
            rest = process.stderr.read()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert "draining signal=" in rest
    assert "Traceback" not in rest
