"""The program `workers-shim`: turns a command line into a running worker.

It works with the base install; what an engine needs beyond that is imported only when that engine is asked for.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from broker_wire.amqp.addresses import TLSFiles
from broker_wire.log_lines import log_to_stderr
from broker_wire.topology import QueueType
from workers_shim import Worker
from workers_shim.settings import SettingError, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the process's exit code: 2 for what cannot be started as it was asked for."""
    try:
        options = parse(arguments)
        log_to_stderr(options.log_level)
        _make_worker(options).run()
    except (SettingError, ValueError) as error:
        print(f"workers-shim: {error}", file=sys.stderr)  # noqa: T201 - for whoever typed the command
        return 2
    return 0


def _make_worker(options: argparse.Namespace) -> Worker:
    """Raises: SettingError, ValueError."""
    worker = _load(options.target) if options.engine == "run" else Worker()
    _configure(worker, options)
    if options.engine == "echo":
        _register_echo(worker, options)
    elif options.engine == "llamacpp":
        _register_llamacpp(worker, options)
    return worker


def _configure(worker: Worker, options: argparse.Namespace) -> None:
    """What the command line says goes before what the module of `run` said."""
    names = ("name", "slots", "speed", "broker_url", "prefix", "drain_timeout", "grace")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.broker_ca or options.broker_cert or options.broker_key:
        given["tls"] = TLSFiles(options.broker_ca, options.broker_cert, options.broker_key)
    bounds: dict[str, Any] = {}
    if options.queue_limit is not None:
        bounds["max_length"] = options.queue_limit
    if options.queue_type is not None:
        bounds["type"] = QueueType(options.queue_type)
    if bounds:
        given["bounds"] = msgspec.structs.replace(worker.config.bounds, **bounds)
    worker.configure(**given)


def _register_echo(worker: Worker, options: argparse.Namespace) -> None:
    from workers_shim.engines import echo

    engine = echo.Echo(options.tokens_per_second)
    for model in options.models:
        echo.register(worker, model, engine)


def _register_llamacpp(worker: Worker, options: argparse.Namespace) -> None:
    from workers_shim.engines import llamacpp

    engine = llamacpp.LlamaCpp.load(
        options.gguf, slots=worker.config.slots, context_length=options.context_length, threads=options.threads
    )
    for model in options.models or [engine.default_name]:
        llamacpp.register(worker, model, engine)


def _load(target: str) -> Worker:
    """Raises: SettingError; whatever the module raises while it is imported."""
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise SettingError(f"{target!r} does not say which worker to run: it has to look like my_module:worker")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            # The module is there; something that it imports is not.
            raise
        raise SettingError(f"there is no module {module_name!r} in {Path.cwd()} or among the installed ones") from error
    worker = getattr(module, name, None)
    if not isinstance(worker, Worker):
        found = "nothing" if worker is None else f"a {type(worker).__name__}"
        raise SettingError(f"{name!r} in module {module_name!r} has to be a Worker, it is {found}")
    return worker
