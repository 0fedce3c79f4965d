"""How patient the programs are in the fault tests: a few seconds, or as they are shipped (FAULTS_SETTINGS=default)."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from msgspec import Struct


class Settings(Struct, frozen=True):
    """Seconds; the names are those of the options.

    Attributes:
        given: they are said on the command lines; otherwise they are the products' own defaults.
    """

    name: str
    given: bool
    first_token_timeout: float
    stall_timeout: float
    worker_wait: float
    grace: float

    def controller_options(self) -> list[str]:
        """For the command line of a controller."""
        if not self.given:
            return []
        options = {
            "--first-token-timeout": self.first_token_timeout,
            "--stall-timeout": self.stall_timeout,
            "--worker-wait": self.worker_wait,
            "--grace": self.grace,
        }
        return [f"{name}={value:g}" for name, value in options.items() if name in _help("broker-controller")]

    def worker_options(self) -> list[str]:
        """For the command line of the tests' worker."""
        has_grace = "--grace" in _help("workers-shim", "echo")
        return [f"--grace={self.grace:g}"] if self.given and has_grace else []


SHORT = Settings("short", True, first_token_timeout=10, stall_timeout=4, worker_wait=5, grace=5)
DEFAULT = Settings("default", False, first_token_timeout=60, stall_timeout=10, worker_wait=30, grace=30)


def settings_of_environment() -> Settings:
    """Raises: KeyError, for a name that is neither."""
    return {"short": SHORT, "default": DEFAULT}[os.environ.get("FAULTS_SETTINGS", "short")]


@cache
def _help(program: str, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name(program)), *arguments, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
