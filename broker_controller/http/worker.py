"""The worker protocol for one worker, at the address that a controller hands out: `/worker/<name>/…`."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from broker_controller.errors import BadRequestError, WorkerNotFoundError
from broker_controller.http.call import Call
from broker_controller.http.documentation import worker as docs
from broker_controller.http.errors import ErrorStyle, cumulative_stream_style, cumulative_style, detail_style
from broker_controller.http.generate import generate, generate_stream
from broker_controller.http.questions import count_token, get_conv_template, get_embeddings, model_details
from broker_controller.http.routes import CallRoute, Endpoint
from broker_controller.http.services import Services
from broker_wire.errors import NameRefusedError
from broker_wire.topology import check_worker_name

TAG = "One worker"

WorkerAnswer = Callable[[Services, Call, str | None], Awaitable[None]]
"""An endpoint for whichever worker, or for one."""


def worker_routes(services: Services) -> list[CallRoute]:
    """All routes of the protocol."""
    surface = _Surface(services)
    called, asked = surface.called, surface.asked
    routes: list[tuple[str, Endpoint, ErrorStyle, dict[str, Any]]] = [
        ("worker_generate_stream", partial(called, generate_stream), cumulative_stream_style, docs.ONE_GENERATE_STREAM),
        ("worker_generate", partial(called, generate), cumulative_style, docs.ONE_GENERATE),
        ("worker_get_embeddings", partial(called, get_embeddings), cumulative_style, docs.ONE_GET_EMBEDDINGS),
        ("count_token", partial(asked, count_token), cumulative_style, docs.ONE_COUNT_TOKEN),
        ("model_details", partial(asked, model_details), cumulative_style, docs.ONE_MODEL_DETAILS),
        ("worker_get_conv_template", partial(asked, get_conv_template), cumulative_style, docs.ONE_GET_CONV_TEMPLATE),
        ("worker_get_status", surface.get_status, detail_style, docs.ONE_GET_STATUS),
    ]
    return [
        CallRoute(f"/worker/{{name}}/{path}", endpoint, of_errors, tag=TAG, docs=described)
        for path, endpoint, of_errors, described in routes
    ]


class _Surface:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def called(self, answer: WorkerAnswer, call: Call) -> None:
        """A request: whoever was given the worker's address has come."""
        name = _worker_name(call)
        self._services.controller.registry.note_address_used(name, self._services.gateway.watched())
        await answer(self._services, call, name)

    async def asked(self, answer: WorkerAnswer, call: Call) -> None:
        """A question: its request comes after it."""
        await answer(self._services, call, _worker_name(call))

    async def get_status(self, call: Call) -> None:
        name = _worker_name(call)
        controller = self._services.controller
        record = controller.registry.get(name)
        if record is None or not record.instance:
            raise WorkerNotFoundError(f"there is no worker {name!r} here")
        await call.respond_json(controller.get_worker_status(name))


def _worker_name(call: Call) -> str:
    try:
        return check_worker_name(call.path_parameter("name"))
    except NameRefusedError as error:
        raise BadRequestError(str(error)) from error
