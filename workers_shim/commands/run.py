"""`workers-shim run`: a worker that is written in Python by its user."""

import argparse
import importlib
import sys
from pathlib import Path

from workers_shim.commands.command import EngineCommand, ModelNames
from workers_shim.options import Options, SettingError
from workers_shim.worker import Worker


def _add_options(options: Options) -> None:
    options.add_without_variable("target", metavar="MODULE:WORKER", help="where it is, for example my_worker:worker")


def _load(options: argparse.Namespace) -> Worker:
    """Raises: SettingError; whatever the module raises while it is imported."""
    target: str = options.target
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


def _register(worker: Worker, options: argparse.Namespace) -> None:
    """The module has done it."""


RUN = EngineCommand(
    name="run",
    summary="run a worker of yours, made in Python",
    model_names=ModelNames.IN_PYTHON,
    add_options=_add_options,
    register=_register,
    make_worker=_load,
)
