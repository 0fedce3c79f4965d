"""A route whose endpoint is written on a `Call`, and which FastAPI's `/docs` shows all the same.

FastAPI reads a body twice, by json and by pydantic; here its bytes reach the endpoint as they came.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broker_controller.errors import ServiceError
from broker_controller.http.call import Call, ClientLeftError
from broker_controller.http.errors import ErrorStyle

Endpoint = Callable[[Call], Awaitable[None]]


class CallRoute(APIRoute):
    """One path. `style` is how its protocol says an error before the first byte of the answer."""

    def __init__(
        self, path: str, endpoint: Endpoint, style: ErrorStyle, *, tag: str, docs: dict[str, Any], method: str = "POST"
    ) -> None:
        async def documented() -> None:
            """Never called: FastAPI looks at its parameters, of which there are none."""

        super().__init__(
            path,
            documented,
            methods=[method],
            name=path,
            tags=[tag],
            response_class=Response,
            openapi_extra=docs,
            operation_id=_operation_id(method, path),
        )
        self._endpoint = endpoint
        self._style = style
        self.app = self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send)
        try:
            await self._endpoint(call)
        except ServiceError as error:
            answer = self._style(error.about(call.subject))
            await call.respond(answer.status, answer.body, answer.content_type, answer.headers)
        except ClientLeftError:
            return


def _operation_id(method: str, path: str) -> str:
    name = path.strip("/").replace("/", "_").replace("{", "").replace("}", "")
    return name if method == "POST" else f"{method.lower()}_{name}"
