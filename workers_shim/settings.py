"""The command line of `workers-shim`: what can be said, in words for `--help`, and the environment's equivalents.

Used by `cli`. It parses and checks; it starts nothing and imports no engine.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from broker_wire.topology import QueueBounds, QueueType, check_model_name, check_worker_name
from workers_shim.config import GRACE

ENVIRONMENT_PREFIX = "WORKERS_SHIM_"

_EPILOG = f"""\
Every option has an environment variable: --broker-url is {ENVIRONMENT_PREFIX}BROKER_URL, and so on; --model takes
several names from {ENVIRONMENT_PREFIX}MODEL, one a line. An option wins over its variable.

SIGTERM or Ctrl-C drains the worker: it takes no new request, finishes what runs, and leaves. A second one ends it at
once. Exit code 78: another process took the worker's name over."""


class SettingError(Exception):
    """An option or variable cannot be used; the text says which and why."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="workers-shim",
        description="A worker: takes requests for its models from RabbitMQ and streams the answers back.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    engines = parser.add_subparsers(dest="engine", required=True, metavar="ENGINE", title="engines")

    echo = _engine(engines, "echo", "repeat the prompt's words: no model, for tests and benchmarks")
    group = _models(echo, default="required")
    _add(group, "--tokens-per-second", type=float, metavar="R", help="pace of each stream (default: at full speed)")

    llamacpp = _engine(engines, "llamacpp", "run a GGUF model by llama.cpp")
    group = _models(llamacpp, default="default: the file's name")
    _add(group, "--gguf", type=Path, metavar="PATH", help="the model's file (default: SmolLM2-135M-Instruct)")
    _add(group, "--context-length", type=int, metavar="N", help="tokens a request may have (default: the model's own)")
    _add(group, "--threads", type=int, metavar="N", help="threads of llama.cpp (default: by the number of cores)")

    run = _engine(engines, "run", "run a worker of yours, made in Python")
    run.add_argument("target", metavar="MODULE:WORKER", help="where it is, for example my_worker:worker")

    for command in (echo, llamacpp, run):
        _worker(command)
        _broker(command)
    return parser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line and the environment.

    Raises: SettingError; SystemExit, when argparse has said what is wrong, or what can be said.
    """
    options = build_parser().parse_args(arguments)
    # Empty, as a script's unset variable is: not given.
    options.broker_url = options.broker_url or os.environ.get(f"{ENVIRONMENT_PREFIX}BROKER_URL") or None
    if options.engine != "run" and options.models is None:
        options.models = _models_of_environment()
        if options.models is None and options.engine == "echo":
            raise SettingError("say which model to serve: --model NAME")
    return options


def _models_of_environment() -> list[str] | None:
    variable = f"{ENVIRONMENT_PREFIX}MODEL"
    names = [line.strip() for line in os.environ.get(variable, "").splitlines() if line.strip()]
    try:
        return [check_model_name(name) for name in names] or None
    except ValueError as error:
        raise SettingError(f"{variable}: {error}") from error


def _engine(
    engines: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str
) -> argparse.ArgumentParser:
    return engines.add_parser(
        name,
        help=summary,
        description=summary.capitalize() + ".",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _models(command: argparse.ArgumentParser, *, default: str) -> "argparse._ArgumentGroup":
    group = command.add_argument_group("models")
    group.add_argument(
        "--model",
        action="append",
        type=_checked(check_model_name),
        metavar="NAME",
        dest="models",
        help=f"name that clients ask for; may be given more than once ({default})",
    )
    return group


def _worker(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("worker")
    _add(group, "--name", type=_checked(check_worker_name), metavar="W", help="unique in the fleet (default: made up)")
    _add(group, "--slots", type=int, metavar="N", help="requests that run at once (default: 1)")
    _add(group, "--speed", type=float, metavar="F", help="relative to the other workers (default: 1)")
    _add(
        group,
        "--drain-timeout",
        type=float,
        metavar="S",
        help="seconds to finish in when asked to leave (default: 600)",
    )
    _add(
        group,
        "--grace",
        type=float,
        metavar="S",
        help=f"seconds to go on for a controller that is away (default: {GRACE:g})",
    )
    _add(
        group,
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="least severe events to log (default: info)",
    )


def _broker(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("broker")
    _add(
        group,
        "--broker-url",
        metavar="URL",
        help="amqp:// or amqps:// addresses, comma-separated (default: AMQP_URL, else RabbitMQ on this machine)",
    )
    _add(group, "--broker-ca", type=Path, metavar="PEM", help="authority that amqps:// certificates are checked by")
    _add(group, "--broker-cert", type=Path, metavar="PEM", help="certificate to show the broker")
    _add(group, "--broker-key", type=Path, metavar="PEM", help="its key")
    _add(group, "--prefix", metavar="TEXT", help="of all names on the broker; one a fleet (default: bc)")
    _add(
        group,
        "--queue-type",
        choices=tuple(QueueType),
        help=f"of models' queues: classic, or quorum in a cluster (default: {QueueBounds().type})",
    )
    _add(
        group,
        "--queue-limit",
        type=int,
        metavar="N",
        help=f"requests that may wait for one model; who comes first decides (default: {QueueBounds().max_length})",
    )


def _add(group: "argparse._ArgumentGroup", option: str, **how: Any) -> None:
    """An option with its environment variable. One that is not given is None."""
    variable = ENVIRONMENT_PREFIX + option.removeprefix("--").replace("-", "_").upper()
    text = os.environ.get(variable)
    if text:
        try:
            how["default"] = how.get("type", str)(text)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise SettingError(f"{variable}={text}: {error}") from error
        if "choices" in how and how["default"] not in how["choices"]:
            raise SettingError(f"{variable}={text}: choose from {', '.join(how['choices'])}")
    group.add_argument(option, **how)


def _checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """argparse prints an ArgumentTypeError's own text, and none of a ValueError's."""

    def convert(text: str) -> str:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert
