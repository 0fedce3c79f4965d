"""A request whose head never comes, or never ends."""

import asyncio

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from broker_controller.http import connection
from broker_controller.http.connection import BoundedConnection

WITHIN = 30.0
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", REQUEST[:20], REQUEST + REQUEST[:20]], ids=["nothing", "half", "one and a half"])
async def test_a_client_that_does_not_go_on_is_left(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 0.05)
    config = uvicorn.Config(PlainTextResponse("here"), http=BoundedConnection, log_config=None, lifespan="off")
    state = ServerState()

    def connect() -> BoundedConnection:
        return BoundedConnection(config=config, server_state=state, app_state={})

    async with await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), WITHIN)
        writer.close()
        await writer.wait_closed()
    assert answer.endswith(b"here") is sent.startswith(REQUEST)
