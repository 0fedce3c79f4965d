"""Puts the HTTP surfaces together into one application. Called by the command line and by tests."""

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from broker_controller.errors import BadRequestError, NoSuchPathError, ServiceError, Subject, WrongMethodError
from broker_controller.http.access import AccessLog
from broker_controller.http.documentation.parts import components
from broker_controller.http.errors import answer_for_error
from broker_controller.http.llava import llava_routes
from broker_controller.http.openai import models_router, openai_routes
from broker_controller.http.operations import operations_router
from broker_controller.http.responses import response_routes
from broker_controller.http.services import Services
from broker_controller.http.worker import worker_routes

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

_DESCRIPTION = """\
One address in front of a fleet of generative-model workers, with RabbitMQ in the middle.

Every answer carries `X-Request-Id`: the client's own, or a new one. It is in the logs of the controller and the worker.
"""


def create_app(services: Services, lifespan: Lifespan | None = None) -> FastAPI:
    """The whole application; `lifespan` runs what has to run beside it."""
    app = _Application(
        title="broker-controller",
        description=_DESCRIPTION,
        version=_version(),
        lifespan=lifespan,
        redirect_slashes=False,
    )
    calls = [
        *openai_routes(services),
        *response_routes(services),
        *llava_routes(services),
        *worker_routes(services),
    ]
    # Routes are tried in this order: before the docs' own, those that are asked most.
    app.router.routes[:0] = calls
    app.include_router(models_router(services))
    app.include_router(operations_router(services))
    app.exception_handler(ServiceError)(_on_service_error)
    app.exception_handler(RequestValidationError)(_on_invalid_parameter)
    app.exception_handler(HTTPException)(_on_http_error)
    app.add_middleware(AccessLog)
    app.direct = {
        route.path: AccessLog(route.app) for route in calls if not route.param_convertors and route.methods == {"POST"}
    }
    return app


class _Application(FastAPI):
    direct: Mapping[str, AccessLog] = {}
    """By path: POSTs that go past the framework, whose layers cost a fifth of a short request, 3 KB of a stream.
    They need none of them, and answer for themselves, errors included."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        app = self.direct.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        return (app or super().__call__)(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """FastAPI's document, with the schemas of our answers, and without the form of its own errors: we have none."""
        if self.openapi_schema is None:
            document = super().openapi()
            document["components"] = {"schemas": components()}
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
        return super().openapi()


async def _on_service_error(request: Request, error: ServiceError) -> Response:
    return _response(request, error)


async def _on_invalid_parameter(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return _response(request, BadRequestError(f"{place} is not right: {first['msg']}"))


async def _on_http_error(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    told: ServiceError
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            told = NoSuchPathError(f"there is nothing at {path}")
        case HTTPStatus.METHOD_NOT_ALLOWED:
            told = WrongMethodError(f"{path} does not take {request.method}")
        case _:
            told = BadRequestError(str(error.detail))
    response = _response(request, told)
    response.headers.update(error.headers or {})
    return response


def _response(request: Request, error: ServiceError) -> Response:
    error.about(Subject(request.state.request_id))
    answer = answer_for_error(request.url.path, error)
    response = Response(answer.body, answer.status, media_type="application/json")
    response.raw_headers += answer.headers
    return response


def _version() -> str:
    try:
        return metadata.version("broker-controller")
    except metadata.PackageNotFoundError:  # run from its sources
        return "0"
