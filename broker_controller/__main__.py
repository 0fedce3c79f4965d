"""`python -m broker_controller`, and the program `broker-controller`."""

import sys
from collections.abc import Callable
from functools import partial


def main() -> int:
    """Returns the process's exit code. A worker's machine has this package, but not what the server needs."""
    try:
        program = _program(sys.argv[1:2])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(("broker_", "workers_shim")):
            raise
        print(  # noqa: T201 - for whoever typed the command
            f"broker-controller: the package {error.name} is missing. The controller needs the extra of the server: "
            "pip install 'broker-controller[server]'",
            file=sys.stderr,
        )
        return 2
    return program()


def _program(command: list[str]) -> Callable[[], int]:
    """What is asked for by its first argument; neither needs the other's libraries."""
    if command and not command[0].startswith("-"):
        from broker_controller.operator.commands import COMMANDS, main

        if command[0] in COMMANDS:
            return partial(main, sys.argv[1:])
    from broker_controller import cli

    return cli.main


if __name__ == "__main__":
    sys.exit(main())
