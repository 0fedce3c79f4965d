"""Lists of items, a page at a time."""

from typing import Any

import pytest

from broker_controller.errors import BadRequestError
from broker_controller.responses.paging import page_of

ITEMS = [{"id": f"msg_{number}"} for number in range(25)]


def ids(page: dict[str, Any]) -> list[int]:
    numbers = [int(item["id"].removeprefix("msg_")) for item in page["data"]]
    if numbers:
        assert (page["first_id"], page["last_id"]) == (f"msg_{numbers[0]}", f"msg_{numbers[-1]}")
    return numbers


def test_pages_follow_each_other_in_either_order() -> None:
    first = page_of(ITEMS, {})
    assert (ids(first), first["has_more"]) == ([*range(24, 4, -1)], True)
    second = page_of(ITEMS, {"after": first["last_id"]})
    assert (ids(second), second["has_more"]) == ([4, 3, 2, 1, 0], False)
    upwards = page_of(ITEMS, {"order": "asc", "after": "msg_2", "limit": "3"})
    assert (ids(upwards), upwards["has_more"]) == ([3, 4, 5], True)


def test_after_the_last_one_there_is_an_empty_page() -> None:
    page = page_of(ITEMS, {"after": "msg_0"})
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "name"),
    [({"order": "up"}, "order"), ({"after": "msg_25"}, "after")]
    + [({"limit": limit}, "limit") for limit in ("0", "101", "-1", "x", "9" * 5000)],
)
def test_what_is_no_page_is_refused_by_name(query: dict[str, str], name: str) -> None:
    with pytest.raises(BadRequestError, match=f"`{name}`"):
        page_of(ITEMS, query)
