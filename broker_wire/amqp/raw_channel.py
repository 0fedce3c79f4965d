"""The mechanism of a channel: its states, calls and their answers, frames into messages.

`Channel` builds on it and has everything that a program uses. Nothing here waits before it sends: RabbitMQ works
through a channel's methods in order and answers in order, so several calls may be under way.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from msgspec import Struct
from pika import spec
from pika.amqp_object import Method

from broker_wire.amqp import frames
from broker_wire.amqp.link import Link
from broker_wire.errors import BrokerError, ChannelClosedError, NotConnectedError

_log = logging.getLogger(__name__)

RPC_TIMEOUT = 30.0
"""Seconds that the broker has to answer a declare, consume and the like. Then the channel is given up."""

_METHODS: Mapping[int, Any] = spec.methods
R = TypeVar("R", bound=Method)


class ChannelState(Enum):
    """OPENING → OPEN → CLOSING → CLOSED, and from each to CLOSED at once."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class _Call(Struct, eq=False):
    """What the broker has not answered. Answers of one kind come in order, those about consumers have their tag."""

    reply: type[Method]
    consumer_tag: str | None
    future: asyncio.Future[Method]


class RawChannel(ABC):
    """One AMQP channel. `open` says whether it can be used; a closed one is never opened again."""

    def __init__(self, link: Link, number: int, on_closed: Callable[[ChannelClosedError], None]) -> None:
        self.number = number
        self.state = ChannelState.OPENING
        self._link = link
        self._on_closed = on_closed
        self._why_closed: BrokerError = NotConnectedError("the channel is not open yet")
        self._calls: deque[_Call] = deque()
        # The message that is arriving: its basic.deliver (None for a basic.return), its header, its body so far.
        self._deliver: frames.Deliver | None = None
        self._properties: frames.Properties | None = None
        self._missing = 0
        self._parts: list[bytes] = []

    @property
    def open(self) -> bool:
        """Whether calls are sent."""
        return self.state is ChannelState.OPEN

    # --- life ---

    async def start(self) -> None:
        """Open it; `Session` calls this once. Raises: BrokerError."""
        self.state = ChannelState.OPEN
        await self._rpc(spec.Channel.Open(), spec.Channel.OpenOk)

    async def close(self) -> None:
        """Close in order; what is unconfirmed is LOST. Closing a closed channel does nothing."""
        if self.state is not ChannelState.OPEN:
            return
        closed = self._call(spec.Channel.Close(200, "closed", 0, 0), spec.Channel.CloseOk)
        self.state = ChannelState.CLOSING
        self._on_closed = _ignore
        try:
            await self._answer(closed, "channel.close")
        except BrokerError as error:
            _log.debug("channel gone while closing reason=%s", error)
        finally:
            self.shut(ChannelClosedError(0, "it was closed here"))

    def abandon(self, reason: str) -> None:
        """Close it without waiting: nobody uses it, or the broker does not answer on it."""
        if self.open:
            self._link.send_method(self.number, spec.Channel.Close(200, reason[:200], 0, 0))
        self.shut(ChannelClosedError(0, reason))

    def shut(self, reason: ChannelClosedError, *, why: BrokerError | None = None) -> None:
        """The channel is over: everything that waits fails. Idempotent.

        `why` is what callers get from now on, if it is something else than `reason`.
        """
        if self.state is ChannelState.CLOSED:
            return
        self.state = ChannelState.CLOSED
        self._why_closed = why or reason
        self._parts.clear()
        calls, self._calls = self._calls, deque()
        for call in calls:
            if not call.future.done():
                call.future.set_exception(self._why_closed)
                # Nobody may be waiting: consume_soon and cancel do not.
                call.future.exception()
        self._on_shut()
        self._guarded(self._on_closed, reason)

    # --- calls out ---

    def _call(self, method: Method, reply: type[Method], consumer_tag: str | None = None) -> asyncio.Future[Method]:
        if self.state is not ChannelState.OPEN:
            raise self._reason()
        future: asyncio.Future[Method] = asyncio.get_running_loop().create_future()
        self._link.send_method(self.number, method)
        self._calls.append(_Call(reply, consumer_tag, future))
        return future

    async def _rpc(self, method: Method, reply: type[R]) -> R:
        answer = await self._answer(self._call(method, reply), method.NAME)
        assert isinstance(answer, reply)  # noqa: S101, _resolve compares the types
        return answer

    async def _answer(self, future: asyncio.Future[Method], name: str) -> Method:
        try:
            async with asyncio.timeout(RPC_TIMEOUT):
                return await future
        except TimeoutError:
            # A late answer would be taken for that of the next call.
            self.abandon(f"the broker did not answer {name} within {RPC_TIMEOUT:g} s")
            raise self._reason() from None

    def _reason(self) -> BrokerError:
        # One object is raised again and again while nobody opens a new channel; its traceback must not grow.
        return self._why_closed.with_traceback(None)

    # --- frames in ---

    def on_frame(self, kind: int, data: bytes, start: int, end: int) -> None:
        """One frame from the link."""
        if kind == frames.METHOD:
            self._on_method(int.from_bytes(data[start : start + 4]), data, start + 4, end)
        elif kind == frames.HEADER:
            self._missing, self._properties = frames.decode_header(data, start)
            if self._missing == 0:
                self._on_message(b"")
        elif kind == frames.BODY:
            body = data[start:end]
            self._missing -= len(body)
            if self._missing > 0:
                self._parts.append(body)
            elif self._parts:
                parts, self._parts = self._parts, []
                self._on_message(b"".join((*parts, body)))
            else:
                self._on_message(body)

    def _on_method(self, number: int, data: bytes, at: int, end: int) -> None:
        if number == frames.DELIVER:
            self._deliver = frames.decode_deliver(data, at)
        elif number in (frames.ACK, frames.NACK):
            self._on_confirm(number == frames.ACK, *frames.decode_answer(data, at))
        elif number == frames.RETURN:
            self._deliver = None
        elif number == frames.GET_OK:
            self._deliver = frames.decode_get_ok(data, at)
        else:
            self._on_answer(_METHODS[number]().decode(data[at:end]))

    def _on_message(self, body: bytes) -> None:
        deliver, properties = self._deliver, self._properties
        self._deliver = self._properties = None
        # A channel that is closing is not to hand out more work.
        if properties is None or self.state is not ChannelState.OPEN:
            return
        if deliver is None:
            self._on_returned(properties)
        else:
            self._on_delivered(deliver, properties, body)

    def _on_answer(self, method: Method) -> None:
        match method:
            case spec.Channel.Close():
                self._link.send_method(self.number, spec.Channel.CloseOk())
                self._link.receivers.pop(self.number, None)
                self.shut(ChannelClosedError(method.reply_code or 0, str(method.reply_text)))
                return
            case spec.Basic.Cancel():
                self._on_consumer_cancelled(str(method.consumer_tag))
                return
            case spec.Basic.GetEmpty():
                self._on_get_empty()
                return
            case spec.Channel.Flow():
                self._link.send_method(self.number, spec.Channel.FlowOk(method.active))
                return
            case spec.Channel.CloseOk() if not self.open:
                self._link.receivers.pop(self.number, None)
            case spec.Basic.CancelOk():
                self._on_consumer_gone(str(method.consumer_tag))
        self._resolve(method)

    def _resolve(self, method: Method) -> None:
        tag = getattr(method, "consumer_tag", None)
        for position, call in enumerate(self._calls):
            if type(method) is call.reply and call.consumer_tag == tag:
                del self._calls[position]
                if not call.future.done():
                    call.future.set_result(method)
                return

    def _guarded(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001  a fault of one callback must not end the connection that others share
            _log.exception("callback failed callback=%r", callback)

    # --- what the channel of the programs adds ---

    @abstractmethod
    def _on_delivered(self, deliver: frames.Deliver, properties: frames.Properties, body: bytes) -> None: ...

    @abstractmethod
    def _on_returned(self, properties: frames.Properties) -> None: ...

    @abstractmethod
    def _on_confirm(self, taken: bool, tag: int, multiple: bool) -> None: ...

    @abstractmethod
    def _on_get_empty(self) -> None: ...

    @abstractmethod
    def _on_consumer_cancelled(self, tag: str) -> None:
        """By the broker."""

    @abstractmethod
    def _on_consumer_gone(self, tag: str) -> None:
        """The broker has answered our cancel: nothing more comes."""

    @abstractmethod
    def _on_shut(self) -> None: ...


def _ignore(*_: object) -> None: ...
