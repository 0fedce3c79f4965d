"""How the controller's log looks: one event a line, key=value, times in UTC, on standard error.

Everything that logs in this process ends up here, the HTTP server's own messages included.
"""

import logging
import sys
import time

LEVELS = ("debug", "info", "warning", "error")

_QUIET = {"pika": logging.CRITICAL, **dict.fromkeys(("uvicorn.error", "asyncio", "httpx", "httpcore"), logging.WARNING)}
"""They tell what our own lines tell already: only what is graver is shown. At `debug` everything is."""


class LineFormatter(logging.Formatter):
    """Time, level, event. A traceback follows its line."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        """A client's text in a message must neither look like a line of ours nor move a terminal's cursor."""
        line = super().formatMessage(record)
        return line if line.isprintable() else "".join(map(_printable, line))


def set_up(level: str) -> None:
    """Set up the whole process; `level` is one of `LEVELS`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else least)


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
