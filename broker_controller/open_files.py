"""How many files and connections this process may have open: as many as its administrator allows.

Called by the command line, once. A system's usual soft limit of 1,024 is there for programs that use `select`; above it
libuv accepts a client and closes the connection again.
"""

import logging
import sys
from contextlib import suppress

if sys.platform != "win32":
    import resource

_log = logging.getLogger(__name__)

ENOUGH = 4096
"""Open files below which an operator is warned: 2,000 clients at once, a reconnect of them, and our own."""


def raise_limit() -> None:
    """Raise the soft limit to the hard one. Warns where it stays low; Windows has no such limit."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS: a hard limit without end cannot be asked for.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY and soft < ENOUGH:
        _log.warning(
            "few open files allowed limit=%d: clients above it are disconnected, raise the hard limit to %d or more "
            "(ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of Docker)",
            soft,
            ENOUGH,
        )
