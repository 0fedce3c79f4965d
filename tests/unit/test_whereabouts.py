"""Which requests a worker's process has ever had."""

from broker_controller.whereabouts import Whereabouts


def test_a_request_is_found_at_every_process_that_had_it() -> None:
    whereabouts: Whereabouts[int] = Whereabouts()
    assert whereabouts.note(1, "i1")
    assert whereabouts.note(1, "i2")
    assert whereabouts.note(2, "i2")
    assert whereabouts.at("i1") == [1]
    assert sorted(whereabouts.at("i2")) == [1, 2]
    assert whereabouts.at("i3") == []


def test_only_a_change_is_news() -> None:
    whereabouts: Whereabouts[int] = Whereabouts()
    assert whereabouts.note(1, "i1")
    assert not whereabouts.note(1, "i1")
    assert whereabouts.note(1, "i2")
    assert whereabouts.note(1, "i1")


def test_nothing_is_kept_of_a_request_that_is_over() -> None:
    whereabouts: Whereabouts[int] = Whereabouts()
    for instance in ("i1", "i2", "i1"):
        whereabouts.note(1, instance)
    whereabouts.note(2, "i2")
    whereabouts.forget(1)
    whereabouts.forget(1)
    assert whereabouts.at("i1") == []
    assert whereabouts.at("i2") == [2]
    whereabouts.forget(2)
    assert not whereabouts._requests
    assert not whereabouts._instances
