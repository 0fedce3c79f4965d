"""A list of items a page at a time, as OpenAI's clients ask for it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from broker_controller.errors import BadRequestError

DEFAULT_LIMIT = 20
MOST = 100
"""OpenAI's, both."""


def page_of(items: Sequence[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The page that `order` (`desc` by default), `after` (an item's id) and `limit` (1 to 100) of a query name.

    Raises: BadRequestError.
    """
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequestError(f"`order` has to be asc or desc, not {order[:40]!r}")
    found = list(items) if order == "asc" else list(reversed(items))
    after = query.get("after")
    if after is not None:
        places = [place for place, item in enumerate(found) if item.get("id") == after]
        if not places:
            raise BadRequestError(f"`after` has to be the id of an item, not {after[:80]!r}")
        del found[: places[0] + 1]
    page = found[: _limit(query.get("limit"))]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": len(page) < len(found),
    }


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isdecimal() and len(text) <= len(str(MOST)) and 1 <= int(text) <= MOST):
        raise BadRequestError(f"`limit` has to be from 1 to {MOST}, not {text[:40]!r}")
    return int(text)
