"""Serves the application: the listening sockets, uvicorn's settings, and leaving in order.

Called by the command line. It knows the gateway only as something to take leave of.
"""

import asyncio
import errno
import logging
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from broker_controller.gateway import Gateway
from broker_controller.http.connection import BoundedConnection, look_after
from broker_controller.http.forwarded import Forwarded
from broker_controller.http.last_requests import LINGER, SETTLE, Connection, accept_waiting, let_them_ask, take_no_more

_log = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than common proxies and pools keep theirs."""
LAST_WORDS = 5.0
"""Seconds, after the time to drain, for the errors that end the remaining answers."""


class ListenError(Exception):
    """The address cannot be listened on; the text says why and what to do."""


def listen(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of `host`; port 0 takes a free one, the same for all.

    Raises: ListenError.
    """
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        for family, address in _addresses(host, port):
            try:
                one = opened.enter_context(_listen_on(family, (address, port)))
            except OSError as error:
                # `localhost` is two addresses also where there is no IPv6.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise ListenError(_sentence(host, port, error)) from error
                missing = error
                continue
            sockets.append(one)
            port = one.getsockname()[1]
        if not sockets:
            raise ListenError(_sentence(host, port, missing)) from missing
        opened.pop_all()
        return sockets


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"cannot listen on {host}: the name does not resolve ({error})") from error
    families = (socket.AF_INET, socket.AF_INET6)
    return list(dict.fromkeys((entry[0], str(entry[4][0])) for entry in found if entry[0] in families))


def _listen_on(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    with ExitStack() as opened:
        one = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(BACKLOG)
        one.setblocking(False)
        opened.pop_all()
        return one


def _sentence(host: str, port: int, error: OSError | None) -> str:
    match error.errno if error is not None else None:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is taken by another program: end that one, or choose another with --port"
        case errno.EACCES:
            return f"port {port} on {host} may not be used by this user: choose one above 1023 with --port"
        case _:
            return f"cannot listen on {host}, port {port}: {error or 'it has no address of this machine'}"


class Server(uvicorn.Server):
    """uvicorn, leaving in order: no new clients, then the time to drain, then errors for whoever still waits."""

    def __init__(
        self,
        app: ASGIApp,
        gateway: Gateway,
        *,
        drain_timeout: float,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        """Raises: ListenError for a certificate or key that cannot be used."""
        config = uvicorn.Config(
            app,
            loop="uvloop",
            interface="asgi3",
            http=BoundedConnection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=int(drain_timeout + LAST_WORDS) + 1,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        config.app = Forwarded(app, config.forwarded_allow_ips)
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            raise ListenError(
                f"cannot serve HTTPS with {certificate} and its key (are they PEM, and a pair?): {error}"
            ) from error
        super().__init__(config)
        self._gateway = gateway
        self._drain_timeout = drain_timeout
        self._leave_until: float | None = None
        self._handshakes: list[asyncio.Task[None]] = []
        """With those who had connected when the port closed, and were not accepted yet."""
        self._look_after: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """Stop serving, in order; asked for a second time, at once."""
        if self.should_exit:
            _log.warning("leaving at once")
            self._end_streams()
            self.force_exit = True
            for task in self._handshakes:
                task.cancel()
            # What is cut off now would be told with the traceback of its cancellation.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        else:
            _log.info("leaving streams=%d", len(self._gateway.streams))
            self._gateway.door.leave()
            self.should_exit = True

    def time_left(self) -> float:
        """Seconds of the time to drain that are left."""
        if self.force_exit or self._leave_until is None:
            return 0.0
        return max(0.0, self._leave_until - time.monotonic())

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT make it leave. Unlike uvicorn's own, they are not raised again at the end."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        before = [signal.getsignal(number) for number in signals]
        for number in signals:
            loop.add_signal_handler(number, self.leave)
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=True):
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; from now on connections are looked after."""
        await super().startup(sockets)
        self._look_after = asyncio.create_task(look_after(self.server_state.connections))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; but who is connected may ask once more, and what outlasts the time to drain is told so."""
        self._gateway.door.leave()
        self._leave_until = time.monotonic() + self._drain_timeout
        timer = asyncio.get_running_loop().call_later(self._drain_timeout, self._end_streams)
        try:
            await self._close_port(sockets or [])
            connections = cast("set[Connection]", self.server_state.connections)
            await let_them_ask(connections, hurried=lambda: self.force_exit)
            self._gateway.door.refuse()
            await super().shutdown(sockets)
        finally:
            timer.cancel()
            await self._end_look_after()

    async def _end_look_after(self) -> None:
        if self._look_after is not None:
            self._look_after.cancel()
            await asyncio.wait([self._look_after])

    async def _close_port(self, sockets: list[socket.socket]) -> None:
        take_no_more(sockets)
        await asyncio.sleep(SETTLE)
        waiting = accept_waiting(sockets)
        for server in self.servers:
            server.close()
        for one in sockets:
            one.close()
        self._handshakes = [asyncio.create_task(self._welcome(connection)) for connection in waiting]
        if not self._handshakes:
            return
        _, late = await asyncio.wait(self._handshakes, timeout=LINGER)
        for task in late:
            task.cancel()
        # Whatever became of one of them, the others are served, and it leaves.
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    async def _welcome(self, connection: socket.socket) -> None:
        with suppress(OSError):  # it has left meanwhile, or what it says is no TLS
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(self._new_connection, connection, ssl=self.config.ssl)

    def _new_connection(self) -> BoundedConnection:
        return BoundedConnection(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=None
        )

    def _end_streams(self) -> None:
        streams = list(self._gateway.streams.values())
        _log.warning("answers cut off, the time to drain is up streams=%d", len(streams))
        for stream in streams:
            self._gateway.shut_down(stream)
        for connection in list(self.server_state.connections):
            cast("BoundedConnection", connection).give_up_closed()
