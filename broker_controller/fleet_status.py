"""The fleet as if it were one worker: for `/worker_get_status`, and for the controllers that this one registers at."""

from typing import Any

from broker_controller.controller import Controller
from broker_controller.nesting import CONTROLLER_FIELD
from broker_controller.queue_watch import QueueWatch


def fleet_status(controller: Controller, queues: QueueWatch, controller_id: str) -> dict[str, Any]:
    """LLaVA's `model_names`, `speed` and `queue_length`, with what waits for a free slot; and who says so."""
    status = controller.worker_api_get_status()
    queue_length = status["queue_length"] + queues.waiting
    return status | {"queue_length": queue_length, CONTROLLER_FIELD: controller_id}
