"""The programs that the demo runs: started under a guard, watched, and ended together. Used by demo.py alone."""

import os
import sys
from pathlib import Path

from broker_controller.guarded_process import GuardedProcess

_GRACE_SECONDS = 10.0
_CONFIGURES_OURS = ("BROKER_CONTROLLER_", "WORKERS_SHIM_", "AMQP_URL")


class ProgramEndedError(RuntimeError):
    """A program of the demo ended on its own; the message has the end of its log."""


class Programs:
    """All that the demo started, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, GuardedProcess] = {}

    def start(self, name: str, program: str, *arguments: str) -> None:
        """Run one of the programs that are installed beside our interpreter, with nothing but these arguments."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_CONFIGURES_OURS)}
        self._running[name] = GuardedProcess(
            [str(Path(sys.executable).with_name(program)), *arguments],
            log=self._folder / f"{name}.log",
            environment=environment,
            folder=self._folder,
            grace=_GRACE_SECONDS,
        )

    def watch(self, within: float) -> None:
        """Wait so many seconds.

        Raises:
            ProgramEndedError: one has ended.
        """
        for name, process in self._running.items():
            if process.ended(within / len(self._running)):
                raise ProgramEndedError(f"{name} has ended:\n{process.log_tail(lines=20)}")

    def log_tails(self) -> str:
        """The end of each log, for when something failed and all still run."""
        return "\n".join(f"--- {name}\n{process.log_tail(lines=12)}" for name, process in self._running.items())

    def stop(self) -> None:
        """End all, at the same time."""
        for process in self._running.values():
            process.ask_to_stop()
        for process in self._running.values():
            process.stop()
