"""The program `workers-shim`: turns a command line into a running worker.

It works with the base install; what an engine needs beyond that is imported only when that engine is asked for.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from broker_wire.amqp.addresses import TLSFiles
from broker_wire.log_lines import log_to_stderr
from broker_wire.topology import QueueType
from workers_shim import Worker
from workers_shim.check import check
from workers_shim.commands.command import EngineCommand
from workers_shim.options import SettingError
from workers_shim.settings import WORKER_SETTINGS, parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the process's exit code.

    1 for a check that failed, 2 for what cannot be started as it was asked for, 130 for Ctrl-C before that.
    """
    try:
        options = parse(arguments)
        log_to_stderr(options.log_level, options.log_format)
        if options.command == "check":
            return check(_make_engine(options), options)
        _make_worker(options).run()
    except (SettingError, ValueError) as error:
        print(f"workers-shim: {error}", file=sys.stderr)  # noqa: T201 - for whoever typed the command
        return 2
    except KeyboardInterrupt:
        # Before the worker lives, while its engine loads or is waited for.
        return 130
    return 0


def _make_worker(options: argparse.Namespace) -> Worker:
    """Raises: SettingError, ValueError."""
    engine: EngineCommand = options.engine
    worker = engine.make_worker(options)
    _configure(worker, options)
    engine.await_server(options)
    engine.register(worker, options)
    return worker


def _make_engine(options: argparse.Namespace) -> Worker:
    """A worker that is not to be run: it waits for nothing, and needs no broker. Raises: SettingError, ValueError."""
    engine: EngineCommand = options.engine
    worker = engine.make_worker(options)
    engine.register(worker, options)
    return worker


def _configure(worker: Worker, options: argparse.Namespace) -> None:
    """What the command line says goes before what the module of `run` said."""
    given = {name: value for name in WORKER_SETTINGS if (value := getattr(options, name)) is not None}
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
