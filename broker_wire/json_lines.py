"""The log as JSON, an object a line, for whoever collects it. Chosen by `--log-format json`.

Nothing is logged in another way for it: an event is its template, as in `"worker left worker=%s reason=%s"`, and the
template names the fields.
"""

import logging
import re
import time
from typing import Any

import msgspec

_FIELD = re.compile(r"(?:^|\s)([a-z_]+)=(%[-+ #0]*[\d.]*[sdrfg])(?=\s|$)")
_PLACE = re.compile(r"%[-+ #0]*[\d.]*[sdrfg]")


class UTCFormatter(logging.Formatter):
    """Times as 2026-11-27T12:00:00.000Z."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class JsonFormatter(UTCFormatter):
    """`time`, `level`, `logger`, `event` and the event's fields; a traceback is `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """One object, without a line break."""
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
        }
        line |= _event(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _event(record: logging.LogRecord) -> dict[str, Any]:
    """The event and its fields; whatever is not made of fields alone is one text."""
    template, arguments = record.msg, record.args
    if isinstance(template, str) and isinstance(arguments, tuple) and arguments:
        fields = list(_FIELD.finditer(template))
        if fields and len(fields) == len(arguments) == len(_PLACE.findall(template)):
            named = {field[1]: _plain(field[2], value) for field, value in zip(fields, arguments, strict=True)}
            return {"event": template[: fields[0].start()].strip()} | named
    return {"event": record.getMessage()}


def _plain(place: str, value: object) -> object:
    """A number as such, with the digits that its place has; everything else as its text."""
    if isinstance(value, float) and place.endswith("f"):
        return float(place % value)
    return value if isinstance(value, int | float | None) else str(value)
