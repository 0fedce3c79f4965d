"""The page that names, for each rule of the protocol, the tests that show it: every one of them exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
_ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
ROWS = [
    (int(number), re.findall(r"`([^`]+)`", shown_by))
    for number, _, shown_by in _ROW.findall((REPOSITORY / "docs" / "rules.md").read_text())
]


@cache
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((REPOSITORY / "tests" / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_the_rules_are_numbered_without_a_gap() -> None:
    assert [number for number, _ in ROWS] == list(range(1, 32))


@pytest.mark.parametrize(("number", "shown_by"), ROWS, ids=[str(number) for number, _ in ROWS])
def test_what_shows_a_rule_is_a_test_that_exists(number: int, shown_by: list[str]) -> None:
    assert shown_by, f"nothing shows rule {number}"
    for named in shown_by:
        path, _, test = named.partition("::")
        assert test.startswith("test_")
        assert test in functions_in(path), f"{named} is no test"
