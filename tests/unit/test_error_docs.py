"""The page about errors says what the table says."""

from pathlib import Path

from broker_controller.error_docs import page
from broker_controller.errors import MEANINGS, REMEDIES


def test_the_page_about_errors_is_not_stale() -> None:
    assert (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8") == page()


def test_every_error_has_a_remedy() -> None:
    assert REMEDIES.keys() == MEANINGS.keys()
