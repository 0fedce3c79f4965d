"""Options of the command line, each with its environment variable. Used by `settings`, which says what there is."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

ENVIRONMENT_PREFIX = "BROKER_CONTROLLER_"

T = TypeVar("T")


class SettingError(Exception):
    """An option or variable cannot be used; the text says which and why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, where argparse would print the whole usage before it."""
        raise SettingError(message)


class Options:
    """The parser, its headings and options, and what the environment says to them."""

    def __init__(self, environment: Mapping[str, str], *, epilog: str) -> None:
        self.parser = _Parser(
            prog="broker-controller",
            usage="%(prog)s [options]",
            description="One HTTP address in front of a fleet of generative-model workers, with RabbitMQ between.",
            epilog=epilog,
            formatter_class=argparse.RawTextHelpFormatter,
            allow_abbrev=False,
        )
        self.from_environment: dict[str, Any] = {}
        self._environment = environment
        self._group = self.parser.add_argument_group()

    def begin(self, title: str) -> None:
        """The next options are under this heading."""
        self._group = self.parser.add_argument_group(title)

    def add(self, option: str, convert: Callable[[str], Any], metavar: str, text: str, action: str = "store") -> None:
        """An option and its variable. What is given in neither is left out: `Settings` has the defaults."""
        name = option.removeprefix("--").replace("-", "_")
        variable = ENVIRONMENT_PREFIX + name.upper()
        if value := self._environment.get(variable):
            try:
                self.from_environment[name] = convert(value)
            except ValueError as error:
                raise SettingError(f"{variable}: {error}") from error
        self._group.add_argument(
            option,
            dest=name,
            action=action,
            default=argparse.SUPPRESS,
            type=_for_argparse(convert),
            metavar=metavar,
            help=text,
        )


def _for_argparse(convert: Callable[[str], T]) -> Callable[[str], T]:
    """argparse prints an ArgumentTypeError's own text, and none of a ValueError's."""

    def converted(text: str) -> T:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return converted
