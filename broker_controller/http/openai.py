"""OpenAI's protocol: models, chats and completions, streaming and not, embeddings; its errors and the real status."""

from collections.abc import Callable
from functools import partial

import msgspec
from fastapi import APIRouter, Response
from msgspec import Struct

from broker_controller.errors import ModelNotFoundError
from broker_controller.http.answer_types import ModelList, ModelObject
from broker_controller.http.answers import assemble
from broker_controller.http.bodies import BodyReader, ChatBody, CompletionBody, EmbeddingBody
from broker_controller.http.call import Call
from broker_controller.http.documentation import openai as docs
from broker_controller.http.embeddings import assemble_embeddings
from broker_controller.http.errors import openai_style
from broker_controller.http.events import EventWriter
from broker_controller.http.routes import CallRoute
from broker_controller.http.services import Services
from broker_controller.http.shapes import CHAT, COMPLETION, Shape
from broker_controller.http.streaming import stream_answer, whole_answer
from broker_wire.messages import Operation

TAG = "OpenAI"


class Surface(Struct, frozen=True):
    """One of the two generating endpoints."""

    services: Services
    operation: Operation
    shape: Shape
    read: Callable[[bytes], ChatBody | CompletionBody]

    async def generate(self, call: Call) -> None:
        """Raises: ServiceError."""
        asked, stream = await self.services.take(call, self.read, self.operation)
        if asked.stream:
            include_usage = asked.stream_options is not None and asked.stream_options.include_usage is True
            writer = EventWriter(self.shape, asked.model, include_usage=include_usage)
            del asked  # not to be kept for as long as the stream is open
            await stream_answer(call, stream, writer)
        else:
            await whole_answer(call, stream, partial(assemble, self.shape, asked.model))


async def embed(services: Services, read: Callable[[bytes], EmbeddingBody], call: Call) -> None:
    """Raises: ServiceError."""
    asked, stream = await services.take(call, read, Operation.EMBEDDING)
    await whole_answer(call, stream, partial(assemble_embeddings, asked.model))


def openai_routes(services: Services) -> list[CallRoute]:
    """The POST routes."""
    chat = Surface(services, Operation.CHAT, CHAT, BodyReader(ChatBody).read)
    completion = Surface(services, Operation.COMPLETION, COMPLETION, BodyReader(CompletionBody).read)
    route = partial(CallRoute, style=openai_style, tag=TAG)
    return [
        route("/v1/chat/completions", chat.generate, docs=docs.CHAT_COMPLETIONS),
        route("/v1/completions", completion.generate, docs=docs.COMPLETIONS),
        route("/v1/embeddings", partial(embed, services, BodyReader(EmbeddingBody).read), docs=docs.EMBEDDINGS),
    ]


def models_router(services: Services) -> APIRouter:
    """The GET routes."""
    router = APIRouter(tags=[TAG])

    @router.get("/v1/models", openapi_extra=docs.MODELS)
    async def list_models() -> Response:
        """The models that are served at this moment."""
        models = _served_models(services)
        return _json(ModelList("list", [models[name] for name in sorted(models)]))

    @router.get("/v1/models/{model:path}", openapi_extra=docs.ONE_MODEL)
    async def get_model(model: str) -> Response:
        """One model."""
        models = _served_models(services)
        if model not in models:
            served = ", ".join(sorted(models)) or "none"
            raise ModelNotFoundError(f"no worker serves the model {model!r}; served now: {served}")
        return _json(models[model])

    return router


def _served_models(services: Services) -> dict[str, ModelObject]:
    live = [record for record in services.controller.registry.workers() if record.state.live]
    models: dict[str, ModelObject] = {}
    for record in sorted(live, key=lambda record: record.started_at):
        for card in record.models:
            if card.name not in models:
                models[card.name] = ModelObject(
                    card.name,
                    created=int(record.started_at),
                    object="model",
                    owned_by="broker-controller",
                    abilities=card.abilities,
                    context_length=card.context_length,
                )
    return models


def _json(answer: object) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
