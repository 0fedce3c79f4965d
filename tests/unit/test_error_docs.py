"""The page about errors says what the table says."""

from pathlib import Path

from broker_controller.error_docs import EXAMPLES, page
from broker_controller.errors import MEANINGS, REMEDIES, ServiceError


def kinds(of: type[ServiceError] = ServiceError) -> set[type[ServiceError]]:
    return {kind for direct in of.__subclasses__() for kind in {direct} | kinds(direct)}


def test_the_page_about_errors_is_not_stale() -> None:
    assert (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8") == page()


def test_every_error_has_a_meaning_a_remedy_and_an_example() -> None:
    assert kinds() == MEANINGS.keys()
    assert kinds() == REMEDIES.keys()
    assert [type(example) for example in EXAMPLES] == list(MEANINGS)


def test_every_row_of_the_table_is_one_line() -> None:
    table = [line for line in page().splitlines() if line.startswith("|")]
    assert len(table) == len(EXAMPLES) + 2
    assert {line.count("|") for line in table} == {9}
