"""The controller protocol of LLaVA and FastChat, as their clients and workers speak it.

The parts that generate are in `generate`, those for a certain worker in `worker`.
"""

from functools import partial

from broker_controller.http.bodies import BodyReader, HeartBeatBody, ModelBody, RegistrationBody
from broker_controller.http.call import Call
from broker_controller.http.documentation import llava as docs
from broker_controller.http.documentation import questions as docs_of_questions
from broker_controller.http.errors import cumulative_stream_style, cumulative_style, detail_style
from broker_controller.http.generate import generate, generate_stream
from broker_controller.http.questions import count_token, get_conv_template, get_embeddings, model_details
from broker_controller.http.routes import CallRoute
from broker_controller.http.services import Services

TAG = "Controller (LLaVA, FastChat)"

_registration = BodyReader(RegistrationBody)
_heart_beat = BodyReader(HeartBeatBody)
_model = BodyReader(ModelBody)


def llava_routes(services: Services) -> list[CallRoute]:
    """All POST routes of the protocol."""
    surface = _Surface(services)
    route = partial(CallRoute, style=detail_style, tag=TAG)
    return [
        CallRoute(
            "/worker_generate_stream",
            partial(generate_stream, services),
            cumulative_stream_style,
            tag=TAG,
            docs=docs.GENERATE_STREAM,
        ),
        *[
            CallRoute(path, partial(answer, services), cumulative_style, tag=TAG, docs=described)
            for path, answer, described in (
                ("/worker_generate", generate, docs.GENERATE),
                ("/worker_get_embeddings", get_embeddings, docs_of_questions.GET_EMBEDDINGS),
                ("/count_token", count_token, docs_of_questions.COUNT_TOKEN),
                ("/model_details", model_details, docs_of_questions.MODEL_DETAILS),
                ("/worker_get_conv_template", get_conv_template, docs_of_questions.GET_CONV_TEMPLATE),
            )
        ],
        route("/worker_get_status", surface.get_status, docs=docs.GET_STATUS),
        route("/register_worker", surface.register_worker, docs=docs.REGISTER_WORKER),
        route("/refresh_all_workers", surface.refresh_all_workers, docs=docs.REFRESH_ALL_WORKERS),
        route("/list_models", surface.list_models, docs=docs.LIST_MODELS),
        route("/list_multimodal_models", surface.list_multimodal_models, docs=docs.LIST_MULTIMODAL_MODELS),
        route("/list_language_models", surface.list_language_models, docs=docs.LIST_LANGUAGE_MODELS),
        route("/get_worker_address", surface.get_worker_address, docs=docs.GET_WORKER_ADDRESS),
        route("/receive_heart_beat", surface.receive_heart_beat, docs=docs.RECEIVE_HEART_BEAT),
    ]


class _Surface:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._controller = services.controller

    async def register_worker(self, call: Call) -> None:
        asked = _registration.read(await self._services.read_body(call))
        await self._services.bridges.register(
            asked.worker_name,
            asked.check_heart_beat,
            asked.worker_status,
            asked.multimodal or False,
            called_as=_own_url(call),
        )
        # As LLaVA does, also where the worker gave no status: it finds out by its next heartbeat.
        await call.respond_json(None)

    async def receive_heart_beat(self, call: Call) -> None:
        asked = _heart_beat.read(await self._services.read_body(call))
        await call.respond_json({"exist": self._services.bridges.heartbeat(asked.worker_name, asked.queue_length)})

    async def refresh_all_workers(self, call: Call) -> None:
        await self._services.fleet.roll_call()
        await call.respond_json(None)

    async def list_models(self, call: Call) -> None:
        await call.respond_json({"models": self._controller.list_models()})

    async def list_multimodal_models(self, call: Call) -> None:
        await call.respond_json({"models": self._controller.list_multimodal_models()})

    async def list_language_models(self, call: Call) -> None:
        await call.respond_json({"models": self._controller.list_language_models()})

    async def get_worker_address(self, call: Call) -> None:
        model = _model.read(await self._services.read_body(call)).model
        await call.respond_json({"address": self._address_for(call, model)})

    async def get_status(self, call: Call) -> None:
        await call.respond_json(self._services.fleet_status())

    def _address_for(self, call: Call, model: str) -> str:
        public_url = self._services.settings.public_url or _own_url(call)
        if not self._controller.hands_out_addresses:
            # This controller speaks the worker protocol for the model: old clients get the first free slot, or the
            # warm cache that their request can use, when they come with it.
            return public_url if model in self._controller.registry.models() else ""
        name = self._controller.get_worker_address(model)
        record = self._controller.registry.get(name)
        if record is None:
            return ""
        return record.address or f"{public_url}/worker/{name}"


def _own_url(call: Call) -> str:
    """Where the client found us, a proxy's forwarded scheme included."""
    host = call.header(b"host")
    if host is None:
        address, port = call.scope["server"]
        return f"{call.scope['scheme']}://{address}:{port}"
    return f"{call.scope['scheme']}://{host.decode('latin-1')}"
