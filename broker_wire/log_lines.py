"""How the log of both programs looks: one event a line, key=value or JSON, times in UTC, on standard error."""

import logging
import sys

from broker_wire.json_lines import JsonFormatter, UTCFormatter

FORMATS = ("text", "json")
"""`text`: lines for people, which programs can read, too."""


class LineFormatter(UTCFormatter):
    """Time, level, event. A traceback follows its line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        """A client's text in a message must neither look like a line of ours nor move a terminal's cursor."""
        line = super().formatMessage(record)
        return line if line.isprintable() else "".join(map(_printable, line))


def log_to_stderr(level: str, how: str = "text") -> None:
    """Set up the whole process. `level` is one of `logging`'s names, in any case; `how` one of `FORMATS`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if how == "json" else LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
