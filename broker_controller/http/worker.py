"""The worker protocol for one worker, at the address that a controller hands out: `/worker/<name>/…`."""

from functools import partial

from broker_controller.errors import BadRequestError, WorkerNotFoundError
from broker_controller.http.call import Call
from broker_controller.http.documentation import llava as docs
from broker_controller.http.errors import cumulative_stream_style, cumulative_style, detail_style
from broker_controller.http.generate import generate, generate_stream
from broker_controller.http.routes import CallRoute
from broker_controller.http.services import Services
from broker_wire.errors import NameRefusedError
from broker_wire.topology import check_worker_name

TAG = "One worker"


def worker_routes(services: Services) -> list[CallRoute]:
    """All routes of the protocol."""
    surface = _Surface(services)
    route = partial(CallRoute, tag=TAG)
    return [
        route(
            "/worker/{name}/worker_generate_stream",
            surface.generate_stream,
            cumulative_stream_style,
            docs=docs.ONE_GENERATE_STREAM,
        ),
        route("/worker/{name}/worker_generate", surface.generate, cumulative_style, docs=docs.ONE_GENERATE),
        route("/worker/{name}/worker_get_status", surface.get_status, detail_style, docs=docs.ONE_GET_STATUS),
    ]


class _Surface:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def generate_stream(self, call: Call) -> None:
        await generate_stream(self._services, call, self._called_worker(call))

    async def generate(self, call: Call) -> None:
        await generate(self._services, call, self._called_worker(call))

    async def get_status(self, call: Call) -> None:
        name = _worker_name(call)
        controller = self._services.controller
        record = controller.registry.get(name)
        if record is None or not record.instance:
            raise WorkerNotFoundError(f"there is no worker {name!r} here")
        await call.respond_json(controller.get_worker_status(name))

    def _called_worker(self, call: Call) -> str:
        """Its name; whoever was given its address has come."""
        name = _worker_name(call)
        self._services.controller.registry.note_address_used(name, self._services.gateway.watched())
        return name


def _worker_name(call: Call) -> str:
    try:
        return check_worker_name(call.path_parameter("name"))
    except NameRefusedError as error:
        raise BadRequestError(str(error)) from error
