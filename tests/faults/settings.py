"""How patient the programs are in the fault tests: a few seconds, or as they are shipped (FAULTS_SETTINGS=default)."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct


class Settings(Struct, frozen=True):
    """Seconds; the names are those of the options."""

    name: str
    first_token_timeout: float
    stall_timeout: float
    worker_wait: float
    grace: float

    def controller_options(self) -> list[str]:
        """For the command line of a controller."""
        return [] if self.name == DEFAULT.name else _options(self, "broker-controller")

    def worker_options(self) -> list[str]:
        """For the command line of the tests' worker."""
        return [] if self.name == DEFAULT.name else _options(self, "workers-shim", "echo")


DEFAULT = Settings("default", first_token_timeout=60, stall_timeout=10, worker_wait=30, grace=30)
SHORT = Settings("short", first_token_timeout=10, stall_timeout=4, worker_wait=5, grace=5)


def settings_of_environment() -> Settings:
    """Raises: KeyError, for a name that is neither."""
    wanted = {"short": SHORT, "default": DEFAULT}[os.environ.get("FAULTS_SETTINGS", "short")]
    # What cannot be said on the command line is as it is shipped.
    fixed = {name for name in _FIELDS if _option(name) not in _help("broker-controller")}
    return msgspec.structs.replace(wanted, **{name: getattr(DEFAULT, name) for name in fixed})


_FIELDS = ("first_token_timeout", "stall_timeout", "worker_wait", "grace")


def _options(settings: Settings, *program: str) -> list[str]:
    known = [name for name in _FIELDS if _option(name) in _help(*program)]
    return [f"{_option(name)}={getattr(settings, name):g}" for name in known]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


@cache
def _help(program: str, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name(program)), *arguments, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
