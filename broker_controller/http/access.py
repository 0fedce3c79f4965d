"""Around every request: its `X-Request-Id`, its line in the access log, and the answer to what nobody foresaw."""

import logging
import re
import time
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker_controller.http.call import Call
from broker_controller.http.errors import answer_for_bug
from broker_controller.http.ids import hex_id
from broker_controller.streams import GenerationStream

_access = logging.getLogger("broker_controller.access")
_log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_ANSWERED = "answered request=%s method=%s path=%s status=%d ms=%.1f client=%s"
_GENERATED = _ANSWERED + " model=%s worker=%s outcome=%s wait_ms=%s ttft_ms=%s tokens=%d"
_CLIENT_LEFT = 499
"""What nginx writes where a client left before there was a status."""
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines: logged at DEBUG."""


class AccessLog:
    """ASGI middleware. Puts `request_id` and `received_at` (seconds, monotonic) into the scope's state.

    Whoever answers by a stream puts it there as `stream`, and its line has the facts of that.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.setdefault("state", {})["request_id"] = _request_id(scope)
        answer = _Answer(request_id, send)
        begun = scope["state"]["received_at"] = time.monotonic()
        try:
            await self._app(scope, receive, answer.send)
        except Exception:  # whatever we forgot: the client gets a sentence and the log the traceback
            _log.exception("unforeseen error request=%s path=%s", request_id, _path(scope))
            if answer.status != _CLIENT_LEFT:
                raise
            told = answer_for_bug(scope["path"], request_id)
            await Call(scope, receive, answer.send).respond(told.status, told.body, headers=told.headers)
        finally:
            _log_answer(scope, answer.status, time.monotonic() - begun)


def _log_answer(scope: Scope, status: int, seconds: float) -> None:
    level = logging.DEBUG if scope["path"] in _PROBES else logging.INFO
    if not _access.isEnabledFor(level):
        return
    state = scope["state"]
    client = scope["client"][0] if scope.get("client") else "-"
    facts = (state["request_id"], scope["method"], _path(scope), status, seconds * 1000, client)
    stream: GenerationStream | None = state.get("stream")
    if stream is None:
        _access.log(level, _ANSWERED, *facts)
        return
    start = stream.start
    wait = _milliseconds(None if start is None else start.queue_seconds)
    first = _milliseconds(stream.first_token_seconds)
    _access.log(level, _GENERATED, *facts, stream.model, stream.life.worker, stream.outcome, wait, first, stream.tokens)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


class _Answer:
    """What goes back: it gets the header, and its status is remembered."""

    __slots__ = ("_request_id", "_send", "status")

    def __init__(self, request_id: str, send: Send) -> None:
        self.status = _CLIENT_LEFT
        self._request_id = request_id
        self._send = send

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            header = (b"x-request-id", self._request_id.encode())
            message["headers"] = [*message.get("headers", ()), header]
        return self._send(message)


def _request_id(scope: Scope) -> str:
    """The client's own, if it can stand in a header and a log line; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            given: bytes = value
            return given.decode("ascii")
    return hex_id(16)


def _path(scope: Scope) -> str:
    """As it was sent, percent-encoded: one word without control characters."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0].decode("ascii", "backslashreplace")
