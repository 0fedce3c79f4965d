"""How long a request that waits is left alone: what the clocks of one wait say at each look."""

import pytest

from broker_controller.decisions import Limits, Place
from broker_controller.patience import UNTAKEN, Due, Patience

NOW = 100.0
LIMITS = Limits(grace=5.0, worker_wait=30.0)


def look(
    patience: Patience, place: Place, after: float, *, has_worker: bool = True, is_queue_empty: bool = False
) -> Due:
    return patience.look(place, NOW + after, has_worker=has_worker, is_queue_empty=is_queue_empty)


def test_what_the_broker_refused_is_sent_once_more_and_then_left_alone() -> None:
    patience = Patience(LIMITS)
    patience.on_refused()
    assert look(patience, Place.MODEL, 0) is Due.SAME_AGAIN
    patience.on_publish()
    assert look(patience, Place.MODEL, 1) is Due.NOTHING


def test_what_was_refused_is_not_sent_again_while_nobody_is_there() -> None:
    patience = Patience(LIMITS)
    patience.on_refused()
    assert look(patience, Place.MODEL, 0, has_worker=False) is Due.NOTHING
    assert look(patience, Place.MODEL, 1) is Due.SAME_AGAIN


@pytest.mark.parametrize("place", [Place.MODEL, Place.OWN, Place.RESUME])
def test_a_missing_queue_is_waited_for_while_the_model_is_served(place: Place) -> None:
    patience = Patience(LIMITS)
    assert all(patience.on_returned(place, NOW + after, is_served=True) for after in range(1_000))
    assert not patience.on_returned(place, NOW + 1_000, is_served=False)


def test_the_missing_queue_of_one_worker_is_waited_for_from_its_first_return_on_however_often_it_is_tried() -> None:
    patience = Patience(LIMITS)
    for after in (0.0, 2.0, 4.0):
        assert patience.on_returned(Place.PINNED, NOW + after, is_served=True)
        patience.on_publish()
    assert not patience.on_returned(Place.PINNED, NOW + 5, is_served=True)


def test_what_a_queue_took_in_the_meantime_is_waited_for_anew() -> None:
    patience = Patience(LIMITS)
    patience.on_returned(Place.PINNED, NOW, is_served=True)
    patience.on_taken()
    assert patience.on_returned(Place.PINNED, NOW + 60, is_served=True)


def test_a_missing_queue_is_tried_less_and_less_often_but_every_few_seconds() -> None:
    patience = Patience(LIMITS)
    patience.on_returned(Place.MODEL, NOW, is_served=True)
    tries = []
    for after in (number / 2 for number in range(60)):
        if look(patience, Place.MODEL, after) is Due.SAME_AGAIN:
            tries.append(after)
            patience.on_publish()
            patience.on_returned(Place.MODEL, NOW + after, is_served=True)
    assert tries == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 13.0, 18.0, 23.0, 28.0]


@pytest.mark.parametrize(("place", "seconds"), [(Place.PINNED, 5.0), (Place.MODEL, 30.0), (Place.RESUME, 30.0)])
def test_whoever_has_left_is_waited_for_as_long_as_the_place_allows(place: Place, seconds: float) -> None:
    patience = Patience(LIMITS)
    assert look(patience, place, 0, has_worker=False) is Due.NOTHING
    assert look(patience, place, seconds - 0.1, has_worker=False) is Due.NOTHING
    assert look(patience, place, seconds, has_worker=False) is Due.END


def test_a_pinned_request_waits_for_its_worker_however_long_that_is_busy() -> None:
    patience = Patience(LIMITS)
    looks = [look(patience, Place.PINNED, after, is_queue_empty=True) for after in range(1_000)]
    assert set(looks) == {Due.NOTHING}


def test_what_moves_to_the_models_queue_after_many_copies_has_the_longer_patience_of_the_last_one() -> None:
    patience = Patience(LIMITS)
    look(patience, Place.RESUME, 0)
    assert look(patience, Place.RESUME, UNTAKEN[Place.RESUME]) is Due.NEW_COPY
    patience.on_publish()
    look(patience, Place.MODEL, 10, is_queue_empty=True)
    assert look(patience, Place.MODEL, 10 + UNTAKEN[Place.MODEL], is_queue_empty=True) is Due.NOTHING
    assert look(patience, Place.MODEL, 10 + 2 * UNTAKEN[Place.MODEL], is_queue_empty=True) is Due.NEW_COPY
