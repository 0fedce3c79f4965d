"""What a model can be asked for; and which silence is a stall: none of a request whose answer comes in one piece."""

import pytest

from broker_controller.admission import check_ability, expects_progress
from broker_controller.errors import BadRequestError
from broker_controller.registration import WorkerStatus
from broker_controller.registry import Registry
from broker_controller.request_sender import Submission
from broker_controller.worker_record import WorkerRecord
from broker_wire.messages import Announce, ModelCard, Operation


def submission(operation: Operation = Operation.CHAT, model: str = "m") -> Submission:
    return Submission(model, operation, b"{}", "r-1", 600.0)


def worker(*cards: ModelCard) -> WorkerRecord:
    return WorkerRecord(name="w", models=cards)


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETION, Operation.LLAVA])
def test_a_model_that_streams_shows_progress(operation: Operation) -> None:
    assert expects_progress(submission(operation), worker(ModelCard("m")))


def test_so_does_that_of_a_worker_that_has_said_nothing_of_itself() -> None:
    assert expects_progress(submission(), None)


def test_an_embedding_does_not() -> None:
    assert not expects_progress(submission(Operation.EMBEDDING), worker(ModelCard("m")))


def test_a_model_that_says_that_it_does_not_stream_does_not_and_its_neighbour_does() -> None:
    both = worker(ModelCard("silent", streams=False), ModelCard("m"))
    assert not expects_progress(submission(model="silent"), both)
    assert expects_progress(submission(model="m"), both)


def test_a_model_is_asked_for_what_its_workers_say_that_it_can_do() -> None:
    registry = Registry()
    registry.apply_announce(Announce("w", "i1", models=(ModelCard("m"),)), 0.0)
    check_ability(submission(Operation.COMPLETION), registry)
    with pytest.raises(BadRequestError, match="cannot do embedding"):
        check_ability(submission(Operation.EMBEDDING), registry)


def test_a_worker_that_registered_over_http_is_asked_for_embeddings_for_it_does_not_say_beforehand() -> None:
    registry = Registry()
    registry.register_http("http://w:1", True, WorkerStatus(("m",), 1.0, 0), False, 0.0)
    check_ability(submission(Operation.EMBEDDING), registry)
