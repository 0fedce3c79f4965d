"""The command line of `workers-shim`: what can be said, in words for `--help`, and the environment's equivalents.

Used by `cli`. It parses and checks; it starts nothing and imports no engine.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from broker_wire.log_lines import FORMATS
from broker_wire.messages import Operation
from broker_wire.topology import QueueBounds, QueueType, check_model_name, check_worker_name
from workers_shim.check import MAX_TOKENS, PROMPT
from workers_shim.commands import COMMANDS
from workers_shim.commands.command import EngineCommand, ModelNames
from workers_shim.config import GRACE
from workers_shim.options import ENVIRONMENT_PREFIX, Options, SettingError, checked, variable_of

WORKER_SETTINGS = ("name", "slots", "speed", "broker_url", "prefix", "drain_timeout", "grace", "idle_exit")
"""Options that are `Worker`'s own, by its names; None where they are not given."""
_LOG_LEVELS = ("debug", "info", "warning", "error")
_EPILOG = f"""\
Every option has an environment variable: --broker-url is {ENVIRONMENT_PREFIX}BROKER_URL, and so on; --model takes
several names from {ENVIRONMENT_PREFIX}MODEL, one a line. An option wins over its variable.

SIGTERM or Ctrl-C drains the worker: it takes no new request, finishes what runs, and leaves. A second one ends it at
once. Exit code 78: another process took the worker's name over."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="workers-shim",
        description="A worker: takes requests for its models from RabbitMQ and streams the answers back.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    engines = parser.add_subparsers(dest="command", required=True, metavar="ENGINE", title="engines")
    for engine in COMMANDS:
        _add_engine(engines, engine)
    _add_check(engines)
    return parser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line and the environment; `engine` of the answer is an `EngineCommand`.

    Raises: SettingError; SystemExit, when argparse has said what is wrong, or what can be said.
    """
    options = build_parser().parse_args(arguments)
    # Empty, as a script's unset variable is: not given.
    options.broker_url = options.broker_url or os.environ.get(variable_of("--broker-url")) or None
    if options.models is None:
        options.models = _models_of_environment()
        if options.models is None and options.engine.model_names is ModelNames.REQUIRED:
            raise SettingError("say which model to serve: --model NAME")
    return options


def _models_of_environment() -> list[str] | None:
    variable = variable_of("--model")
    names = [line.strip() for line in os.environ.get(variable, "").splitlines() if line.strip()]
    try:
        return [check_model_name(name) for name in names] or None
    except ValueError as error:
        raise SettingError(f"{variable}: {error}") from error


def _add_engine(engines: "argparse._SubParsersAction[argparse.ArgumentParser]", engine: EngineCommand) -> None:
    command = engines.add_parser(
        engine.name,
        help=engine.summary,
        description=_sentence(engine.summary),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(engine=engine)
    _add_engine_options(command, engine)
    _worker(command, engine)
    _broker(command)


def _sentence(summary: str) -> str:
    return f"{summary[:1].upper()}{summary[1:]}."


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "ask an engine once, without a broker, and say what came of it"
    description = f"{_sentence(summary)} Exit code 0: it answered."
    command = commands.add_parser("check", help=summary, description=description)
    engines = command.add_subparsers(required=True, metavar="ENGINE", title="engines")
    for engine in COMMANDS:
        checked_engine = engines.add_parser(engine.name, help=engine.summary, description=description)
        # What a worker is told can be asked for by its engine, and is not said here.
        checked_engine.set_defaults(engine=engine, **dict.fromkeys(WORKER_SETTINGS))
        _add_engine_options(checked_engine, engine)
        _question(checked_engine)


def _question(command: argparse.ArgumentParser) -> None:
    group = Options(command, "question")
    group.add_without_variable("--ask", metavar="NAME", help="the model to ask, of several (default: the first)")
    group.add_without_variable("--prompt", default=PROMPT, metavar="TEXT", help=f"(default: {PROMPT})")
    group.add_without_variable(
        "--operation",
        choices=tuple(Operation),
        help="protocol of the request (default: the first that the model can do)",
    )
    group.add_without_variable("--whole", action="store_true", help="ask for the answer in one piece, not for a stream")
    group.add_without_variable(
        "--max-tokens", type=int, default=MAX_TOKENS, metavar="N", help=f"of the answer (default: {MAX_TOKENS})"
    )
    group.add_without_variable(
        "--log-level", choices=_LOG_LEVELS, default="warning", help="least severe events to log (default: warning)"
    )
    group.add_without_variable("--log-format", choices=FORMATS, default="text", help="text or json (default: text)")


def _add_engine_options(command: argparse.ArgumentParser, engine: EngineCommand) -> None:
    group = Options(command, "models")
    default = "required" if engine.model_names is ModelNames.REQUIRED else f"default: {engine.default_model}"
    group.add_without_variable(
        "--model",
        action="append",
        type=checked(check_model_name),
        metavar="NAME",
        dest="models",
        help=f"name that clients ask for; may be given more than once ({default})",
    )
    engine.add_options(group)


def _worker(command: argparse.ArgumentParser, engine: EngineCommand) -> None:
    group = Options(command, "worker")
    group.add("--name", type=checked(check_worker_name), metavar="W", help="unique in the fleet (default: made up)")
    group.add("--slots", type=int, metavar="N", help=f"requests that run at once (default: {engine.default_slots})")
    group.add(
        "--speed",
        type=float,
        metavar="F",
        help=f"relative to the other workers (default: {engine.default_speed})",
    )
    group.add(
        "--drain-timeout",
        type=float,
        metavar="S",
        help="seconds to finish in when asked to leave (default: 600)",
    )
    group.add(
        "--grace",
        type=float,
        metavar="S",
        help=f"seconds to go on for a controller that is away (default: {GRACE:g})",
    )
    group.add(
        "--idle-exit",
        type=float,
        metavar="S",
        help="leave after so many seconds without a request (default: stay)",
    )
    group.add(
        "--log-level",
        choices=_LOG_LEVELS,
        default="info",
        help="least severe events to log (default: info)",
    )
    group.add("--log-format", choices=FORMATS, default="text", help="text or json (default: text)")


def _broker(command: argparse.ArgumentParser) -> None:
    group = Options(command, "broker")
    group.add(
        "--broker-url",
        metavar="URL",
        help="amqp:// or amqps:// addresses, comma-separated (default: AMQP_URL, else RabbitMQ on this machine)",
    )
    group.add("--broker-ca", type=Path, metavar="PEM", help="authority that amqps:// certificates are checked by")
    group.add("--broker-cert", type=Path, metavar="PEM", help="certificate to show the broker")
    group.add("--broker-key", type=Path, metavar="PEM", help="its key")
    group.add("--prefix", metavar="TEXT", help="of all names on the broker; one a fleet (default: bc)")
    group.add(
        "--queue-type",
        choices=tuple(QueueType),
        help=f"of models' queues: classic, or quorum in a cluster (default: {QueueBounds().type})",
    )
    group.add(
        "--queue-limit",
        type=int,
        metavar="N",
        help=f"requests that may wait for one model; who comes first decides (default: {QueueBounds().max_length})",
    )
