"""Which error ends a request, for each cause."""

import pytest

from broker_controller import endings
from broker_controller.decisions import Place
from broker_controller.errors import ModelNotFoundError, Subject, WorkerLostError, WorkerNotFoundError
from broker_wire.messages import Failed, FailureKind

SUBJECT = Subject("r-1", "m", "in the queue")


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind is not FailureKind.NOT_SERVED])
def test_every_failure_that_ends_a_request_has_an_error_with_the_workers_words(kind: FailureKind) -> None:
    error = endings.failed(SUBJECT, "w1", Failed(7, 1, 0, kind, "it is too warm"))
    assert "worker 'w1' says: it is too warm" in str(error)


@pytest.mark.parametrize(
    ("place", "has_begun", "error_type"),
    [
        (Place.MODEL, False, ModelNotFoundError),
        (Place.PINNED, False, WorkerNotFoundError),
        (Place.MODEL, True, WorkerLostError),
        (Place.PINNED, True, WorkerLostError),
    ],
)
def test_an_answer_that_has_begun_was_lost_with_its_worker_whoever_is_missing(
    place: Place, has_begun: bool, error_type: type
) -> None:
    assert type(endings.no_queue(SUBJECT, place, "w1", has_begun=has_begun)) is error_type
    assert type(endings.nobody_came(SUBJECT, place, "w1", 30.0, has_begun=has_begun)) is error_type


def test_what_died_behind_workers_too_often_is_said_with_the_last_ones_words() -> None:
    error = endings.died_too_often(SUBJECT, "w1", Failed(7, 1, 0, FailureKind.LOST, "it broke off"), 3)
    assert "worker 'w1' says: it broke off; what ran this answer has died 3 times" in str(error)


def test_who_died_is_named_in_the_singular_or_the_plural() -> None:
    assert "worker a died while it ran this request" in str(endings.poison(SUBJECT, ("a",)))
    assert "workers a, b died while they ran this request" in str(endings.poison(SUBJECT, ("a", "b")))
