"""A process that ends with us, even after a `kill -9`: it runs under process_guard.py, which watches a pipe from us.

Called by private_node.py and by the demo. It knows nothing of what it runs.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from broker_controller.process_guard import ORDERLY_STOP

_GUARD = Path(__file__).with_name("process_guard.py")
_GUARD_MARGIN_SECONDS = 5.0  # what the guard itself may take on top of the grace


class GuardedProcess:
    """A started process.

    Args:
        command: what to run.
        log: gets both of its outputs, after what is in it.
        environment: its whole environment.
        folder: its working folder; removed when *we* end without a stop().
        grace: seconds from SIGTERM to SIGKILL.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: dict[str, str], folder: Path, grace: float
    ) -> None:
        self.log = log
        self._grace = grace
        with log.open("ab") as output:
            self._guard = subprocess.Popen(  # noqa: S603 - our own script
                [sys.executable, "-I", "-S", str(_GUARD), str(folder), str(grace), *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                bufsize=0,
                start_new_session=True,  # Ctrl-C in a terminal goes to us alone; we then stop it in order
            )
        assert self._guard.stdin is not None  # noqa: S101 - for the type checker: both were opened as pipes
        assert self._guard.stdout is not None  # noqa: S101
        self._lifeline, self._news = self._guard.stdin, self._guard.stdout
        self.pid = int(self._news.readline() or b"0")
        """Process id of what runs, not of its guard; 0 when it could not be started."""

    def ended(self, within: float) -> bool:
        """Whether it has ended, or does so within so many seconds."""
        return bool(select.select([self._news], [], [], within)[0])

    def ask_to_stop(self) -> None:
        """Send it SIGTERM, and do not wait."""
        with contextlib.suppress(OSError, ValueError):
            self._lifeline.write(ORDERLY_STOP)
        with contextlib.suppress(OSError):
            self._lifeline.close()

    def stop(self) -> None:
        """End it in order, or by SIGKILL after the grace. The folder stays."""
        self.ask_to_stop()
        try:
            self._guard.wait(self._grace + _GUARD_MARGIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()  # what it guards dies with it
            self._guard.wait()
        self._news.close()

    def kill(self) -> None:
        """End it at once, as a crash would. The folder stays."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def log_tail(self, lines: int = 60) -> str:
        """The last lines of what it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
