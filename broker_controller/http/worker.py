"""The worker protocol for one worker, at the address that a controller hands out: `/worker/<name>/…`."""

from functools import partial

from broker_controller.errors import BadRequestError, WorkerNotFoundError
from broker_controller.http import documentation as docs
from broker_controller.http.call import Call
from broker_controller.http.errors import cumulative_style, detail_style
from broker_controller.http.generate import generate, generate_stream
from broker_controller.http.routes import CallRoute
from broker_controller.http.services import Services
from broker_wire.errors import NameRefusedError
from broker_wire.topology import check_worker_name

TAG = "One worker"


def worker_routes(services: Services) -> list[CallRoute]:
    """All routes of the protocol."""
    surface = _Surface(services)
    generating = partial(CallRoute, style=cumulative_style, tag=TAG)
    return [
        generating("/worker/{name}/worker_generate_stream", surface.generate_stream, docs=docs.ONE_GENERATE_STREAM),
        generating("/worker/{name}/worker_generate", surface.generate, docs=docs.ONE_GENERATE),
        CallRoute(
            "/worker/{name}/worker_get_status", surface.get_status, detail_style, tag=TAG, docs=docs.ONE_GET_STATUS
        ),
    ]


class _Surface:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def generate_stream(self, call: Call) -> None:
        await generate_stream(self._services, call, _worker_name(call))

    async def generate(self, call: Call) -> None:
        await generate(self._services, call, _worker_name(call))

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
