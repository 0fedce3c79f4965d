"""One connection to one node: pika's AsyncioConnection on the event loop's own transport.

pika does the handshake, the heartbeats and the close, and reads and writes all frames of channel 0. Frames of other
channels go straight to their `Channel`: pika's own channel holds a consume or cancel back until an earlier call is
answered, while acks and publishes overtake it. This is the only module that touches pika's private names.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from struct import Struct as Layout
from typing import TYPE_CHECKING, Any, Protocol

import pika
from pika import exceptions
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.frame import Method, decode_frame

from broker_wire.amqp.addresses import BrokerAddresses, Endpoint
from broker_wire.amqp.failures import BadFrameError, HandshakeTimeoutError, NotAMQPError, Stage, explain
from broker_wire.amqp.frames import FRAME_END, FRAME_OVERHEAD_BYTES
from broker_wire.errors import BrokerError, NotConnectedError

HANDSHAKE_TIMEOUT = 10.0
"""Seconds for name, TCP, TLS and AMQP together."""
CLOSE_TIMEOUT = 2.0
"""Seconds that the broker has to answer connection.close; then the socket is dropped."""
SOCKET_HIGH_WATER = 256 * 1024
"""Bytes in the transport's buffer above which its draining is reported."""

_STAGES = {
    AsyncioConnection.CONNECTION_INIT: Stage.CONNECTING,
    AsyncioConnection.CONNECTION_PROTOCOL: Stage.GREETING,
    AsyncioConnection.CONNECTION_START: Stage.AUTHENTICATING,
    AsyncioConnection.CONNECTION_TUNE: Stage.OPENING,
}
_frame_start = Layout(">BHI")


class FrameReceiver(Protocol):
    """A channel, as the link sees it."""

    def on_frame(self, kind: int, data: bytes, start: int, end: int) -> None:
        """One frame's payload is `data[start:end]`."""


class Link(AsyncioConnection, asyncio.Protocol):
    """An open connection. `ended` has the reason once it is over; nothing works any more then."""

    if TYPE_CHECKING:
        # What we use of pika that its stubs leave out or have wrong.
        params: Any
        connection_state: int  # type: ignore[assignment]
        _error: Exception | None
        _got_eof: bool
        _transport: asyncio.WriteTransport | None

        def _terminate_stream(self, error: Exception) -> None: ...
        def _process_frame(self, frame: object) -> None: ...
        def _proto_connection_made(self, transport: object) -> None: ...
        def _proto_connection_lost(self, error: BaseException | None) -> None: ...
        def _proto_eof_received(self) -> bool: ...

    def __init__(self, endpoint: Endpoint, addresses: BrokerAddresses, name: str) -> None:
        loop = asyncio.get_running_loop()
        self.endpoint = endpoint
        self.receivers: dict[int, FrameReceiver] = {}
        self.ended: asyncio.Future[BrokerError] = loop.create_future()
        self.blocked = False
        self.on_ended: Callable[[BrokerError], None] = _ignore
        self.on_blocked: Callable[[bool], None] = _ignore
        self.on_drained: Callable[[], None] = _ignore
        self._stage = Stage.CONNECTING
        self._cause: BaseException | None = None
        self._rest = b""
        self._loop = loop
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        self._opened_future: asyncio.Future[None] = loop.create_future()
        parameters = pika.ConnectionParameters(
            host=endpoint.host,
            port=endpoint.port,
            virtual_host=endpoint.virtual_host,
            credentials=pika.PlainCredentials(endpoint.user, endpoint.password),
            heartbeat=addresses.heartbeat,
            client_properties={"connection_name": name, "product": "broker-controller"},
        )
        super().__init__(
            parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
            custom_ioloop=loop,
            internal_connection_workflow=False,
        )
        self.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        self.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))

    @property
    def server_version(self) -> tuple[int, ...]:
        """As the broker says it: (4, 0, 5)."""
        version = str((self.server_properties or {}).get("version", ""))
        return tuple(int(part) for part in re.findall(r"\d+", version)[:3])

    @property
    def body_max(self) -> int:
        """Bytes that one body frame carries."""
        return int(self.params.frame_max) - FRAME_OVERHEAD_BYTES

    @property
    def channel_max(self) -> int:
        """The highest channel number."""
        return int(self.params.channel_max) or 65535

    @property
    def buffered_bytes(self) -> int:
        """Handed to `send`, and not yet taken by the kernel."""
        return self._held_bytes + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def send(self, data: bytes) -> None:
        """Write whole frames. After the end they are dropped: the channels are being told just now, one by one."""
        if self._transport is None:
            return
        self.bytes_sent += len(data)
        if self._held is None:
            # The first of a tick goes out at once; what follows in the same tick is one system call, not many.
            self._held = []
            self._loop.call_soon(self._release)
            self._transport.write(data)
        else:
            self._held.append(data)
            self._held_bytes += len(data)

    def _release(self) -> None:
        held, self._held, self._held_bytes = self._held, None, 0
        if held and self._transport is not None:
            self._transport.write(b"".join(held))

    def _adapter_emit_data(self, data: bytes) -> None:
        """pika's own frames, of channel 0: a close must not overtake what was sent before it."""
        self._release()
        if self._transport is not None:
            self._transport.write(data)

    def send_method(self, channel: int, method: Any) -> None:
        """Write one of pika's method objects."""
        self.send(Method(channel, method).marshal())

    async def handshake(self, addresses: BrokerAddresses) -> None:
        """Connect, and wait until the virtual host is open. Raises: BrokerError."""
        endpoint = self.endpoint
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                context = addresses.tls_context() if endpoint.tls else None
                await asyncio.get_running_loop().create_connection(
                    lambda: self, endpoint.host, endpoint.port, ssl=context
                )
                await self._opened_future
        except TimeoutError as error:
            raise explain(
                error if self._stage is Stage.CONNECTING and str(error) else HandshakeTimeoutError(HANDSHAKE_TIMEOUT),
                self._stage_now(),
                endpoint,
            ) from error
        except (OSError, EOFError, UnicodeError, ValueError) as error:
            raise explain(error, Stage.CONNECTING, endpoint) from error

    async def finish(self, reason: str) -> None:
        """Close in order, within 2 s; then the socket is dropped."""
        if self.ended.done() or self._transport is None:
            return
        if not (self.is_closing or self.is_closed):
            self.close(200, reason[:200])
        try:
            await asyncio.wait({self.ended}, timeout=CLOSE_TIMEOUT)
        finally:
            self.abort(NotConnectedError(f"the connection was closed: {reason}"))
        # The end of a dropped socket is reported on the loop's next turn.
        await asyncio.wait({self.ended}, timeout=CLOSE_TIMEOUT)

    def abort(self, error: Exception) -> None:
        """Drop the socket now. `error` is the reason that the channels get."""
        if self._transport is not None:
            self._terminate_stream(error)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.set_write_buffer_limits(high=SOCKET_HIGH_WATER)
        self._proto_connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cause = exc
        if exc is None and self._error is None and not self._got_eof:
            # A handshake that was given up between TCP and AMQP; pika asserts that there is a reason.
            self._error = exceptions.ConnectionOpenAborted()
        self._proto_connection_lost(exc)

    def eof_received(self) -> bool:
        return bool(self._proto_eof_received())

    def resume_writing(self) -> None:
        self.on_drained()

    def data_received(self, data: bytes) -> None:
        # pika's heartbeat looks whether this number has grown.
        self.bytes_received += len(data)
        try:
            self._rest = self._take_frames(self._rest + data if self._rest else data)
        except Exception as error:  # noqa: BLE001  whatever a bad frame raises in pika's decoder ends this connection
            self.abort(error)

    def _take_frames(self, data: bytes) -> bytes:
        """Dispatch all whole frames; returns what is left over."""
        if self.connection_state == self.CONNECTION_PROTOCOL and data[0] != 1:
            raise NotAMQPError(data)
        at, size_of_data = 0, len(data)
        frame_max = self.params.frame_max
        receivers = self.receivers
        while size_of_data - at >= FRAME_OVERHEAD_BYTES:
            kind, channel, size = _frame_start.unpack_from(data, at)
            if size > frame_max:
                raise BadFrameError(f"the broker sent a frame of {size} bytes, over the {frame_max} agreed")
            start = at + 7
            end = start + size
            if end >= size_of_data:
                break
            if data[end] != FRAME_END:
                raise BadFrameError("the broker sent a frame without an end")
            if channel:
                receiver = receivers.get(channel)
                if receiver is not None:
                    receiver.on_frame(kind, data, start, end)
            else:
                self._process_frame(decode_frame(data[at : end + 1])[1])
            at = end + 1
        return data[at:]

    # --- pika's callbacks ---

    def _on_open(self, *_: object) -> None:
        self._stage = Stage.OPEN
        if not self._opened_future.done():
            self._opened_future.set_result(None)

    def _on_stream_terminated(self, error: Exception | None) -> None:
        # pika is about to replace what happened by a guess ("probable authentication error").
        self._cause = self._error or self._cause
        self._stage = self._stage_now()
        super()._on_stream_terminated(error)  # type: ignore[misc]

    def _on_end(self, *_: object) -> None:
        error = explain(self._cause, self._stage, self.endpoint)
        if not self._opened_future.done():
            self._opened_future.set_exception(error)
            # The exception may come when nobody waits any more: after the deadline.
            self._opened_future.exception()
        if not self.ended.done():
            self.ended.set_result(error)
            self.on_ended(error)

    def _stage_now(self) -> Stage:
        return Stage.OPEN if self._stage is Stage.OPEN else _STAGES.get(self.connection_state, self._stage)

    def _set_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        self.on_blocked(blocked)


async def open_link(endpoint: Endpoint, addresses: BrokerAddresses, name: str) -> Link:
    """Connect to one node.

    Raises: BrokerError, with a sentence that says what to check.
    """
    link = Link(endpoint, addresses, name)
    try:
        await link.handshake(addresses)
    except BaseException:
        link.abort(exceptions.ConnectionOpenAborted())
        raise
    return link


def silence_pika() -> None:
    """Our own line says what happened; pika's dozen for one refused connection would bury it."""
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def _ignore(*_: object) -> None: ...
