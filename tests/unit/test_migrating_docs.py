"""What the migration tests expect to differ from FastChat's and LLaVA's controllers is what docs/migrating.md says."""

from pathlib import Path

from tests.upstream.comparing import MORE
from tests.upstream.fastchat.differences import DIFFERENCES as FROM_FASTCHAT
from tests.upstream.llava.differences import DIFFERENCES as FROM_LLAVA

PAGE = Path(__file__).parents[2] / "docs/migrating.md"


def test_every_difference_has_its_row_in_the_docs() -> None:
    _, _, section = PAGE.read_text().partition("## What differs, on purpose")
    rows = {line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")}
    assert {MORE, *(difference.row for table in (FROM_FASTCHAT, FROM_LLAVA) for difference in table.values())} <= rows
