"""The worker protocol of LLaVA and FastChat for one worker."""

from broker_controller.errors import BadRequestError, WorkerNotFoundError
from broker_controller.http.answer_types import Detail
from broker_controller.http.documentation.llava import (
    GENERATE,
    GENERATE_ANSWERS,
    GENERATE_BODY,
    GENERATE_STREAM,
    GENERATE_STREAM_ANSWERS,
    STATUS_ANSWERS,
)
from broker_controller.http.documentation.parts import RESUME, WORKER_NAME, operation, refusals
from broker_controller.http.documentation.questions import (
    ONE_COUNT_TOKEN,
    ONE_GET_CONV_TEMPLATE,
    ONE_GET_EMBEDDINGS,
    ONE_MODEL_DETAILS,
)
from broker_controller.http.errors import detail_style

__all__ = [
    "ONE_COUNT_TOKEN",
    "ONE_GENERATE",
    "ONE_GENERATE_STREAM",
    "ONE_GET_CONV_TEMPLATE",
    "ONE_GET_EMBEDDINGS",
    "ONE_GET_STATUS",
    "ONE_MODEL_DETAILS",
]

ONE_GENERATE_STREAM = operation(
    "Stream an answer of this worker",
    GENERATE_STREAM["description"],
    GENERATE_STREAM_ANSWERS,
    GENERATE_BODY,
    WORKER_NAME + RESUME,
)
ONE_GENERATE = operation(
    "Give a whole answer of this worker",
    GENERATE["description"],
    GENERATE_ANSWERS,
    GENERATE_BODY,
    WORKER_NAME + RESUME,
)
ONE_GET_STATUS = operation(
    "This worker's status",
    "As the worker itself would answer.",
    {
        **STATUS_ANSWERS,
        **refusals(detail_style, Detail, [BadRequestError, WorkerNotFoundError]),
    },
    parameters=WORKER_NAME,
)
