"""A proxy's word for who asks, `X-Forwarded-For` and `-Proto`, read by uvicorn's own middleware where there is one.

Where there is none, which is most, the request goes past that layer. Put around the application by `server`.
"""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


class Forwarded:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, trusted: list[str] | str) -> None:
        """`trusted`: the proxies that are believed, as uvicorn's `forwarded_allow_ips`."""
        self._app = app
        self._behind_proxy: ASGIApp = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type, assignment]

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """One request, or the application's lifespan."""
        for name, _ in scope.get("headers", ()):
            if name.startswith(b"x-forwarded-"):
                return self._behind_proxy(scope, receive, send)
        return self._app(scope, receive, send)
