"""`workers-shim run`: a worker that is written in Python by its user."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from workers_shim.commands.command import EngineCommand, ModelNames
from workers_shim.options import Options, SettingError
from workers_shim.shapes import Yields
from workers_shim.worker import Worker


def _add_options(options: Options) -> None:
    options.add_without_variable(
        "target", metavar="MODULE:NAME", help="where the Worker or the function is, for example my_worker:worker"
    )
    options.add(
        "--yields",
        choices=tuple(Yields),
        help=f"what a function yields (default: {Yields.DELTAS}); a Worker says it itself",
    )


def _make_worker(options: argparse.Namespace) -> Worker:
    """The user's, or one for the user's function.

    Raises: SettingError; whatever the module raises while it is imported.
    """
    target = options.target = _load(options.target)
    if not isinstance(target, Worker):
        return Worker()
    if options.models or options.yields:
        raise SettingError("--model and --yields are for a function: a Worker has its models already")
    return target


def _load(target: str) -> Any:
    """A Worker, or something that can be called."""
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise SettingError(f"{target!r} does not say what to run: it has to look like my_module:worker")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            # The module is there; something that it imports is not.
            raise
        raise SettingError(f"there is no module {module_name!r} in {Path.cwd()} or among the installed ones") from error
    found = getattr(module, name, None)
    if not isinstance(found, Worker) and not callable(found):
        what = "nothing" if found is None else f"a {type(found).__name__}"
        raise SettingError(f"{name!r} in module {module_name!r} has to be a Worker or a function, it is {what}")
    return found


def _register(worker: Worker, options: argparse.Namespace) -> None:
    """Of a Worker the module has done it."""
    if options.target is worker:
        return
    if not options.models:
        raise SettingError("say which model the function serves: --model NAME")
    for model in options.models:
        worker.add_model(model, options.target, yields=options.yields or Yields.DELTAS)


RUN = EngineCommand(
    name="run",
    summary="run a worker of yours, made in Python, or a generator function",
    model_names=ModelNames.OPTIONAL,
    default_model="a Worker's own; a function needs it",
    add_options=_add_options,
    register=_register,
    make_worker=_make_worker,
)
