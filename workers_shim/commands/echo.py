"""`workers-shim echo`."""

import argparse

from workers_shim.commands.command import EngineCommand, ModelNames
from workers_shim.options import Options, yes_or_no
from workers_shim.worker import Worker


def _add_options(options: Options) -> None:
    options.add("--tokens-per-second", type=float, metavar="R", help="pace of each stream (default: at full speed)")
    options.add(
        "--allow-kill",
        nargs="?",
        const=True,
        type=yes_or_no,
        metavar="yes|no",
        help="let requests end this process by echo_engine.die_after (default: no)",
    )


def _register(worker: Worker, options: argparse.Namespace) -> None:
    from workers_shim.engines import echo

    engine = echo.Echo(options.tokens_per_second, may_die=bool(options.allow_kill))
    for model in options.models:
        echo.register(worker, model, engine)


ECHO = EngineCommand(
    name="echo",
    summary="repeat the prompt's words: no model, for tests and benchmarks",
    model_names=ModelNames.REQUIRED,
    add_options=_add_options,
    register=_register,
)
