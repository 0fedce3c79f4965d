"""`workers-shim http`."""

import argparse
from typing import TYPE_CHECKING

from workers_shim.commands.command import EngineCommand, ModelNames
from workers_shim.options import Options, SettingError
from workers_shim.worker import Worker

if TYPE_CHECKING:
    from workers_shim.engines.http.watch import Watch

SLOTS = 5
"""FastChat: --limit-worker-concurrency, LLaVA: --limit-model-concurrency; their defaults."""


def _add_options(options: Options) -> None:
    options.add("--url", metavar="URL", help="where the worker listens, for example http://localhost:21002 (required)")


def _watch(worker: Worker, options: argparse.Namespace) -> "Watch":
    if options.url is None:
        raise SettingError("say where the HTTP worker listens: --url http://localhost:21002")
    try:
        from workers_shim.engines.http.watch import Watch
    except ImportError as error:
        raise SettingError("the engine http needs the package httpx: pip install 'broker-controller[http]'") from error
    from workers_shim.engines.http.address import parse_address

    return Watch(worker, parse_address(options.url), options.models)


def _await_server(options: argparse.Namespace) -> None:
    _watch(Worker(), options).wait_for_worker()


def _register(worker: Worker, options: argparse.Namespace) -> None:
    watch = _watch(worker, options)
    status = watch.begin()
    if options.speed is None:
        worker.configure(speed=status.speed)
    watch.start()


HTTP = EngineCommand(
    name="http",
    summary="call a worker of LLaVA's or FastChat's that listens on HTTP, from its own machine",
    model_names=ModelNames.OPTIONAL,
    default_model="all that the worker has; OURS=THEIRS renames one",
    add_options=_add_options,
    register=_register,
    await_server=_await_server,
    make_worker=lambda _: Worker(slots=SLOTS),
    default_slots=SLOTS,
    default_speed="the worker's own",
)
