"""What the program needs to know of an engine, so that it can be asked for on the command line."""

import argparse
from collections.abc import Callable
from enum import Enum

from msgspec import Struct

from workers_shim.options import Options
from workers_shim.worker import Worker


class ModelNames(Enum):
    """Where the names of an engine's models come from."""

    REQUIRED = "required"
    """`--model` has to say them."""
    OPTIONAL = "optional"
    """`--model` may say them; else the engine knows them."""


class EngineCommand(Struct, frozen=True):
    """One engine on the command line.

    Attributes:
        name, summary: as `--help` lists it; the summary is a phrase in lower case.
        model_names: what becomes of `--model`.
        add_options: adds the engine's own options; they are in a group with `--model`.
        make_worker: the worker that gets the settings, and then the models.
        default_model: the name that a model has without `--model`, in words.
        default_slots, default_speed: what `--help` says of them; `make_worker` and `register` see to it.
        await_server: wait for what the engine needs beside this process, before the worker gets its models. It is left
            out where nobody wants to wait. Raises: SettingError.
        register: put the engine's models into a worker that has its settings. It imports what the engine needs.
            `options.models` has the names from `--model`, or is None. Raises: ValueError, SettingError.
    """

    name: str
    summary: str
    model_names: ModelNames
    add_options: Callable[[Options], None]
    register: Callable[[Worker, argparse.Namespace], None]
    make_worker: Callable[[argparse.Namespace], Worker] = lambda _: Worker()
    await_server: Callable[[argparse.Namespace], None] = lambda _: None
    default_model: str = ""
    default_slots: int | str = 1
    default_speed: str = "1"
