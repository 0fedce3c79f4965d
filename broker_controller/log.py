"""What the controller's log shows of the libraries that it runs on.

Everything that logs in this process ends up in our lines, the HTTP server's own messages included.
"""

import logging

from broker_wire.log_lines import log_to_stderr

LEVELS = ("debug", "info", "warning", "error")

_QUIET = {"pika": logging.CRITICAL, **dict.fromkeys(("uvicorn.error", "asyncio", "httpx", "httpcore"), logging.WARNING)}
"""They tell what our own lines tell already: only what is graver is shown. At `debug` everything is."""


def set_up(level: str, how: str) -> None:
    """Set up the whole process; `level` is one of `LEVELS`, `how` of `FORMATS`."""
    log_to_stderr(level, how)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else least)
