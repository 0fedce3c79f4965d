"""For whoever runs the controller: does the process live, can it take requests, what is going on."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.responses import PlainTextResponse

from broker_controller.http.answer_types import BrokerFacts, ControllerFacts, Health, ModelFacts, Readiness
from broker_controller.http.documentation import operations as docs
from broker_controller.http.exposition import Exposition
from broker_controller.http.readiness import not_ready
from broker_controller.http.services import Services
from broker_controller.process_facts import process_facts
from broker_controller.worker_record import RecordState

TAG = "Operations"


def operations_router(services: Services) -> APIRouter:
    """The GET routes, LLaVA's `/test_connection` included."""
    router = APIRouter(tags=[TAG])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", openapi_extra=docs.HEALTHZ)
    async def healthz() -> Response:
        """The process lives. It says nothing about the broker: restarting the controller would not help there."""
        return _json(200, Health("ok"))

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", openapi_extra=docs.READYZ)
    async def readyz() -> Response:
        """Requests can be taken: the broker is connected and the fleet is known. Else 503, with the reasons."""
        reasons = not_ready(services)
        return _json(503 if reasons else 200, Readiness(not reasons, reasons))

    @router.get("/status", openapi_extra=docs.STATUS)
    async def status() -> Response:
        """Workers, models with the requests that wait for each, streams, broker, garbage, and this process."""
        return _json(200, _status(services))

    exposition = Exposition(services)

    @router.get("/metrics", openapi_extra=docs.METRICS, response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """What Prometheus scrapes: requests, waits, tokens, queues, workers and the broker."""
        text, content_type = exposition.render(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    @router.get("/test_connection", openapi_extra=docs.TEST_CONNECTION)
    async def test_connection() -> Response:
        """FastChat's: a string."""
        return _json(200, "success")

    return router


def _status(services: Services) -> dict[str, Any]:
    """As `Status` says."""
    links = services.links
    reasons = not_ready(services)
    return {
        "controller": ControllerFacts(
            id=services.gateway.controller_id,
            dispatch_method=services.controller.dispatch_method,
            ready=not reasons,
            reasons=reasons,
        ),
        "broker": BrokerFacts(
            connected=links.up,
            blocked=links.blocked,
            problem=links.problem or None,
            version=".".join(map(str, links.server_version)) or None,
        ),
        "workers": _workers(services),
        "http_workers": services.bridges.status(),
        "models": _models(services),
        "streams": services.gateway.status(),
        "responses": services.keeper.status(),
        "garbage": dict(services.garbage.counts),
        "process": process_facts(),
    }


def _workers(services: Services) -> list[Any]:
    now = services.gateway.watched()
    return [record.view(now) for record in services.controller.registry.workers()]


def _models(services: Services) -> list[ModelFacts]:
    waiting = services.queues.lengths
    records = services.controller.registry.workers()
    models = []
    for name in sorted(services.controller.registry.models() | waiting.keys()):
        ready = [record for record in records if record.state is RecordState.READY and name in record.model_names]
        models.append(
            ModelFacts(
                name=name,
                workers=len(ready),
                slots=sum(record.slots for record in ready),
                free=sum(record.reported.free for record in ready),
                queue_length=waiting.get(name, 0),
                forecast_seconds=services.gateway.forecast(name),
            )
        )
    return models


def _json(status: int, answer: object) -> Response:
    return Response(msgspec.json.encode(answer), status, media_type="application/json")
