"""What every controller makes of the log: whose word counts, what goes after its time, and what for want of room."""

import json
from typing import Any

from broker_controller.responses.shelf import LATE, Kept, Reading, Shelf
from broker_wire.messages import Begun, CancelAsked, Created, Deleted, End, Ended, Left, Marker, Said, Sent
from tests.unit.test_response_narrator import fields_of, text_of

END = End(1, 1, 9)
TTL = 10.0


def created(name: str = "r", at: float = 0.0, **fields: Any) -> Created:
    return Created(name, at, True, json.dumps(fields_of(background=True, **fields)).encode(), b"[]", 100.0)


def shelf_with(*names: str, max_bytes: int = 1_000_000) -> Shelf:
    shelf = Shelf(ttl=TTL, max_bytes=max_bytes)
    shelf.apply([created(name) for name in names], "a", 0.0)
    return shelf


def one(shelf: Shelf, name: str = "r") -> Kept:
    kept = shelf.get(name)
    assert kept is not None
    return kept


def test_the_words_of_a_run_count_once_and_those_of_an_older_run_not_at_all() -> None:
    shelf = shelf_with("r")
    shelf.apply([Begun("r", 1), Sent("r", 1, 7), Said("r", 1, 0, ["x"])], "a", 1.0)
    shelf.apply([created(), Begun("r", 1), Said("r", 1, 0, ["x", "y"])], "a", 1.0)
    assert one(shelf).items == ["x", "y"]
    shelf.apply([Begun("r", 2)], "b", 1.0)
    shelf.apply([Said("r", 1, 2, ["old"]), Ended("r", 1, 1.0, end=END), Begun("r", 1)], "a", 1.0)
    shelf.apply([Said("r", 2, 2, ["z"])], "b", 1.0)
    kept = one(shelf)
    assert (kept.items, kept.ended) == (["x", "y", "z"], None)
    assert kept.is_run_by("b", 2)
    shelf.apply([Ended("r", 2, 1.0, end=END)], "b", 1.0)
    shelf.apply([Ended("r", 0, 1.0, "failed")], "c", 1.0)
    assert Reading(one(shelf)).response()["status"] == "completed"


def test_of_two_who_take_over_at_once_the_later_one_runs_it() -> None:
    shelf = shelf_with("r")
    shelf.apply([Begun("r", 1)], "a", 1.0)
    shelf.apply([Begun("r", 2)], "b", 1.0)
    shelf.apply([Begun("r", 2)], "c", 1.0)
    shelf.apply([Said("r", 2, 0, ["of b"])], "b", 1.0)
    shelf.apply([Said("r", 2, 0, ["of c"])], "c", 1.0)
    assert one(shelf).items == ["of c"]


def test_who_leaves_in_order_runs_it_no_more() -> None:
    shelf = shelf_with("r")
    shelf.apply([Begun("r", 1), Left("r", 1), Said("r", 1, 0, ["late"])], "a", 1.0)
    kept = one(shelf)
    assert (kept.owner, kept.epoch, kept.items) == (None, 1, [])


def test_what_nobody_runs_is_cancelled_by_the_asking_alone() -> None:
    shelf = shelf_with("r", "s")
    shelf.apply([CancelAsked("r", 1.0)], "b", 1.0)
    shelf.apply([Begun("r", 1)], "a", 1.0)
    assert Reading(one(shelf)).response()["status"] == "cancelled"
    shelf.apply([Begun("s", 1), CancelAsked("s", 1.0), Said("s", 1, 0, ["x"])], "a", 1.0)
    kept = one(shelf, "s")
    assert kept.cancel_asked
    assert not kept.over
    shelf.apply([Ended("s", 1, 1.0, "cancelled")], "a", 1.0)
    response = Reading(kept).response()
    assert (response["status"], text_of(response)) == ("cancelled", "x")


def test_a_hole_in_the_log_is_never_told_as_an_answer() -> None:
    shelf = shelf_with("r")
    shelf.apply([Begun("r", 1), Said("r", 1, 3, ["x"])], "a", 1.0)
    assert shelf.get("r") is None
    assert shelf.size == 0


def test_a_response_goes_a_time_after_its_end() -> None:
    shelf = shelf_with("r", "late")
    shelf.apply([Begun("r", 1), Ended("r", 1, 50.0, end=END)], "a", 50.0)
    assert shelf.sweep(50.0 + TTL - 1) == []
    assert shelf.get("r") is not None
    assert shelf.sweep(50.0 + TTL) == []
    assert shelf.get("r") is None
    assert shelf.sweep(100.0 + LATE - 1) == []
    assert [kept.created.id for kept in shelf.sweep(100.0 + LATE)] == ["late"]
    shelf.apply([Ended("late", 0, 160.0, "failed", code="deadline_exceeded")], "b", 160.0)
    assert Reading(one(shelf, "late")).response()["error"]["code"] == "deadline_exceeded"


def test_whoever_reads_the_log_later_keeps_nothing_whose_time_is_up() -> None:
    shelf = Shelf(ttl=TTL, max_bytes=1_000_000)
    shelf.apply([created(), Begun("r", 1), Ended("r", 1, 5.0, end=END), created("s")], "a", 5.0 + TTL)
    assert shelf.get("r") is None
    assert shelf.get("s") is not None
    shelf.apply([created("t")], "a", 10_000.0)
    assert shelf.get("t") is None


def test_the_oldest_that_are_over_make_room() -> None:
    shelf = shelf_with("r", "s", "t")
    limit = shelf.size
    shelf = shelf_with("r", "s", "t", max_bytes=limit)
    for name in "st":
        shelf.apply([Begun(name, 1), Ended(name, 1, 1.0, end=END)], "a", 1.0)
    told: list[str] = []
    one(shelf, "s").on_change.append(lambda: told.append("s"))
    shelf.apply([created("u")], "a", 1.0)
    assert [shelf.get(name) is None for name in "rstu"] == [False, True, False, False]
    assert told == ["s"]
    shelf.apply([Begun("r", 1), Said("r", 1, 0, ["x" * limit])], "a", 1.0)
    assert shelf.get("t") is None
    assert shelf.full


def test_what_is_deleted_is_gone_and_its_readers_hear_of_it() -> None:
    shelf = shelf_with("r")
    kept, told = one(shelf), []
    kept.on_change.append(lambda: told.append(kept.forgotten))
    shelf.apply([Begun("r", 1), Deleted("r"), Marker("m"), Deleted("unknown")], "a", 1.0)
    assert told == [False, True]
    assert shelf.get("r") is None
    assert (len(shelf), shelf.size) == (0, 0)


def test_a_conversation_has_the_answer_at_its_end() -> None:
    shelf = shelf_with("r")
    shelf.apply([Begun("r", 1), Said("r", 1, 0, ["x"]), Ended("r", 1, 1.0, end=END)], "a", 1.0)
    [item] = one(shelf).conversation()
    assert item["content"][0]["text"] == "x"
