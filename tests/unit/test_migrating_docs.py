"""What the migration tests expect to differ from FastChat's own controller is what docs/migrating.md says."""

from pathlib import Path

from tests.fastchat.differences import DIFFERENCES, MORE

PAGE = Path(__file__).parents[2] / "docs/migrating.md"


def test_every_difference_has_its_row_in_the_docs() -> None:
    _, _, table = PAGE.read_text().partition("## What differs, on purpose")
    rows = {line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")}
    assert {MORE, *(difference.row for difference in DIFFERENCES.values())} <= rows
