"""An option of the command line that can also be said by an environment variable.

Used by `settings` and by each engine's `commands` module.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

ENVIRONMENT_PREFIX = "WORKERS_SHIM_"


class SettingError(Exception):
    """An option or variable cannot be used; the text says which and why."""


class Options:
    """A titled group of options of one command."""

    def __init__(self, command: argparse.ArgumentParser, title: str) -> None:
        self._group = command.add_argument_group(title)

    def add(self, option: str, **how: Any) -> None:
        """An option with its variable; one that is not given is None. `how` is argparse's.

        Raises: SettingError, when the variable's value cannot be used.
        """
        variable = variable_of(option)
        text = os.environ.get(variable)
        if text:
            try:
                how["default"] = how.get("type", str)(text)
            except (ValueError, argparse.ArgumentTypeError) as error:
                raise SettingError(f"{variable}={text}: {error}") from error
            if "choices" in how and how["default"] not in how["choices"]:
                raise SettingError(f"{variable}={text}: choose from {', '.join(how['choices'])}")
        self._group.add_argument(option, **how)

    def add_without_variable(self, option: str, **how: Any) -> None:
        """An option whose variable, if it has one, is read elsewhere."""
        self._group.add_argument(option, **how)


def variable_of(option: str) -> str:
    """The name of an option's environment variable."""
    return ENVIRONMENT_PREFIX + option.removeprefix("--").replace("-", "_").upper()


def yes_or_no(text: str) -> bool:
    """A `type` for argparse, of an option with `nargs="?"` and `const=True`. Raises: argparse.ArgumentTypeError."""
    if text.lower() not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"has to be yes or no, not {text!r}")
    return text.lower() == "yes"


def checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """A `type` for argparse, which prints an ArgumentTypeError's own text, and none of a ValueError's."""

    def convert(text: str) -> str:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert
