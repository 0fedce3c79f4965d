"""How patient the programs are in the fault tests: a few seconds, or as they are shipped (FAULTS_SETTINGS=default)."""

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec import Struct

from broker_controller.settings import Settings as Shipped
from workers_shim.config import GRACE

T = TypeVar("T")


class Settings(Struct, frozen=True):
    """Seconds; the names are those of the options. Both programs have a `--grace`."""

    name: str
    first_token_timeout: float
    stall_timeout: float
    worker_wait: float
    controller_grace: float
    worker_grace: float

    def controller_options(self) -> list[str]:
        """For the command line of a controller."""
        if self.name == DEFAULT.name:
            return []
        return [
            f"--first-token-timeout={self.first_token_timeout:g}",
            f"--stall-timeout={self.stall_timeout:g}",
            f"--worker-wait={self.worker_wait:g}",
            f"--grace={self.controller_grace:g}",
        ]

    def worker_options(self) -> list[str]:
        """For the command line of the tests' worker."""
        return [] if self.name == DEFAULT.name else [f"--grace={self.worker_grace:g}"]


DEFAULT = Settings(
    "default",
    first_token_timeout=Shipped().first_token_timeout.others,
    stall_timeout=Shipped().stall_timeout.others,
    worker_wait=Shipped().worker_wait,
    controller_grace=Shipped().grace,
    worker_grace=GRACE,
)
SHORT = Settings("short", first_token_timeout=10, stall_timeout=4, worker_wait=5, controller_grace=2, worker_grace=5)


def settings_of_environment() -> Settings:
    """Raises: KeyError, for a name that is neither."""
    return {"short": SHORT, "default": DEFAULT}[os.environ.get("FAULTS_SETTINGS", "short")]


def cases(every: Iterable[T], *, short: Sequence[T]) -> list[T]:
    """Every one with the default settings; with the short ones a few, for `make test` has fifteen minutes."""
    return list(every) if settings_of_environment() == DEFAULT else list(short)
