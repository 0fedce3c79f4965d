"""`python -m broker_controller`, and the program `broker-controller`."""

import sys


def main() -> int:
    """Returns the process's exit code. A worker's machine has this package, but not what the server needs."""
    try:
        from broker_controller import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(("broker_", "workers_shim")):
            raise
        print(  # noqa: T201 - for whoever typed the command
            f"broker-controller: the package {error.name} is missing. The controller needs the extra of the server: "
            "pip install 'broker-controller[server]'",
            file=sys.stderr,
        )
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
