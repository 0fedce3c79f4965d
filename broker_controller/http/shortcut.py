"""The way past the framework's router, for the paths that carry the load. Middleware, put in by `app`.

Matching a route, its exit stacks and its exception middleware cost a fifth of what a short request costs the
controller, and these routes need none of it: they answer for themselves, errors included.
"""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class Shortcut:
    """ASGI middleware. POSTs to one of `direct` go there, everything else to the application."""

    def __init__(self, app: ASGIApp, direct: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's lifespan."""
        app = None
        if scope["type"] == "http" and scope["method"] == "POST":
            app = self._direct.get(scope["path"])
        await (app or self._app)(scope, receive, send)
