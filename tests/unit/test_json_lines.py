"""The log as JSON: an object a line, with the fields that the event's template names."""

import json
import logging
import sys
from typing import Any

import pytest

from broker_wire.json_lines import JsonFormatter


def logged(message: str, *arguments: Any, exc_info: Any = None) -> dict[str, Any]:
    record = logging.getLogger("a.b").makeRecord("a.b", logging.WARNING, "f", 1, message, arguments, exc_info)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_an_event_has_its_fields_with_numbers_as_such() -> None:
    found = logged("answered request=%s status=%d ms=%.1f worker=%s", "r1", 200, 3.14159, None)
    assert found.pop("time").endswith("Z")
    assert found == {
        "level": "WARNING",
        "logger": "a.b",
        "event": "answered",
        "request": "r1",
        "status": 200,
        "ms": 3.1,
        "worker": None,
    }


@pytest.mark.parametrize(
    ("message", "arguments", "event"),
    [
        ("leaving at once", (), "leaving at once"),
        ("100 % sure", (), "100 % sure"),
        ("broker %s connection=%s", ("lost", "c"), "broker lost connection=c"),
        ("the file %s", ("f",), "the file f"),
        ("%d%% of x=%s", (5, "y"), "5% of x=y"),
    ],
)
def test_what_is_not_made_of_fields_alone_is_one_text(message: str, arguments: tuple[Any, ...], event: str) -> None:
    found = logged(message, *arguments)
    assert found["event"] == event
    assert found.keys() == {"time", "level", "logger", "event"}


def test_a_text_with_line_breaks_and_a_traceback_stay_in_one_line() -> None:
    try:
        int("two\nlines")
    except ValueError:
        found = logged("it failed text=%s", "a\nb\x1b[2J", exc_info=sys.exc_info())
    assert found["text"] == "a\nb\x1b[2J"
    assert "\nValueError: " in found["exception"]


def test_an_object_of_any_kind_is_its_text() -> None:
    assert logged("sent error=%r to=%s", KeyError("k"), ("a", 1))["to"] == "('a', 1)"
