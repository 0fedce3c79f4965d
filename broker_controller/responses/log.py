"""The log of kept responses at the broker: opened when it is needed, written, and read into the shelf.

One message has the records of a moment, of however many responses. Every controller reads the whole log, so each
answers for every response from its own memory. Nothing is declared at the broker before somebody keeps a response.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from broker_controller.errors import RETRY_AFTER, BrokerUnavailableError
from broker_controller.links import Links
from broker_controller.responses.log_writer import LogWriter
from broker_controller.responses.records import size_of
from broker_controller.responses.shelf import Shelf
from broker_wire import codec
from broker_wire.amqp.channel import Channel
from broker_wire.amqp.connection import Session
from broker_wire.amqp.declare import declare_queues, declare_topology, queue_ready_counts
from broker_wire.amqp.delivery import Delivery
from broker_wire.errors import BrokerError, GarbageError, QueueDownError
from broker_wire.garbage import GarbageBin
from broker_wire.messages import KeepsResponses, Marker, Record, Records
from broker_wire.topology import KeepBounds

_log = logging.getLogger(__name__)

PREFETCH = 200
"""Messages of the log that may be on their way to us: a stream has to be read with a bound."""
OPEN_TIMEOUT = 10.0
"""Seconds in which the log can be made and read."""
SWEEP_INTERVAL = 1.0
DOWN_TIMEOUT = 30.0
"""Seconds for which the log may be down until another takes its place."""
COMPLAINT_INTERVAL = 60.0
"""Seconds until an operator is told again that the log cannot be opened; it is tried all the while."""


class ResponseLog:
    """Of one controller process."""

    def __init__(self, controller_id: str, links: Links, shelf: Shelf, bounds: KeepBounds, garbage: GarbageBin) -> None:
        self.controller_id = controller_id
        self.shelf = shelf
        self.on_open: list[Callable[[Session], None]] = []
        """Told of each connection, once the queues are there."""
        self._told: Session | None = None
        self.on_lost: Callable[[str], None] = _ignore
        """Told of each response that should be over, and has no end."""
        self._links = links
        self._bounds = bounds
        self._garbage = garbage
        self._session: Session | None = None
        self._wanted = False
        """Somebody keeps responses: it is opened on every connection."""
        self._complain_at = 0.0
        self._number = 0
        self._down_since: float | None = None
        self._woken = asyncio.Event()
        self._opening = asyncio.Lock()
        self._opened_on: Session | None = None
        self._channel: Channel | None = None
        self._next_offset = 0
        self._writer = LogWriter(controller_id, links, may_write=lambda: self._is_open, on_returned=self._begin_again)
        self._markers: dict[str, asyncio.Future[None]] = {}
        self._read = False
        """All that was in the log when this connection opened it was read."""
        links.on_consumer_up.append(self._attach)

    # --- for whoever reads and writes

    @property
    def congested(self) -> bool:
        """More waits to be written than should."""
        return self._writer.behind or (self._wanted and self._links.congested)

    def note(self, record: Record, size: int = 256, done: Callable[[], None] | None = None) -> None:
        """Write it soon, in order, and again after the loss of a connection until the broker has it."""
        self._writer.add(record, size, done)

    async def kept(self, *records: Record, timeout: float = OPEN_TIMEOUT) -> None:
        """Write these, and wait until the broker has them. Raises: BrokerUnavailableError."""
        had: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.open()
        *first, last = records
        for record in first:
            self.note(record, size_of(record))
        self.note(last, size_of(last), lambda: _resolve(had))
        await self._within(timeout, had)

    async def read_all(self) -> None:
        """Wait until all that was in the log when this was called is on the shelf. Raises: BrokerUnavailableError."""
        await self.open()
        await self._barrier()

    async def open(self) -> None:
        """See to it that the log is there, and read. Raises: BrokerUnavailableError."""
        if self._read:
            return
        self._wanted = True
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                session = self._session
                if session is None or not self._links.up:
                    raise self._unavailable()
                await self._open_on(session)
                await self._barrier()
        except (TimeoutError, BrokerError) as error:
            raise self._unavailable() from error
        self._read = self._opened_on is not None

    def join(self) -> None:
        """Another controller keeps responses: read them, too."""
        self._wanted = True
        self._woken.set()

    async def run(self) -> None:
        """Drop what has had its time, and open what was not open yet, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_INTERVAL):
                    await self._woken.wait()
            self._woken.clear()
            if self._wanted and self._session is not None and self._links.up:
                await self._try_to_open(self._session)
            for kept in self.shelf.sweep(time.time()):
                self.on_lost(kept.created.id)

    # --- reading

    async def _attach(self, session: Session) -> None:
        self._session = session
        self._read = False
        await self._try_to_open(session)

    async def _try_to_open(self, session: Session) -> None:
        """If somebody keeps responses. Without it everything but responses goes on."""
        try:
            if not self._wanted:
                name = self._links.topology.log_queue(self._bounds).name
                self._wanted = (await queue_ready_counts(session.channel, [name]))[name] is not None
            if self._wanted:
                await self._open_on(session)
        except BrokerError as error:
            now = time.monotonic()
            if isinstance(error, QueueDownError):
                self._look_for_another(now)
            if now >= self._complain_at:
                self._complain_at = now + COMPLAINT_INTERVAL
                _log.warning("the log of responses cannot be opened reason=%s", error)

    def _look_for_another(self, now: float) -> None:
        """Its node is down, or the broker has lost it: seen with 3.10.8, killed soon after its first stream was made.

        Nobody can delete it then. All controllers find the same, and come to the same one.
        """
        if self._down_since is None:
            self._down_since = now
        elif now - self._down_since >= DOWN_TIMEOUT:
            self._down_since = None
            self._number += 1
            self._next_offset = 0
            _log.error("the log of responses stays down, another takes its place number=%d", self._number)

    async def _open_on(self, session: Session) -> None:
        async with self._opening:
            if self._opened_on is session:
                return
            topology = self._links.topology
            log = topology.log_queue(self._bounds, self._number)
            await declare_topology(session, {topology.responses: "direct"})
            if log.name in await declare_queues(session, [log]):
                self._next_offset = 0
                self._links.send_fleet(topology.fleet_key("keeps", "responses"), KeepsResponses(self.controller_id))
            with suppress(BrokerError):
                # On a node that is down, say: `runner` sees to it. What is kept can be read all the same.
                await declare_queues(session, [topology.jobs_queue()])
            # On its own: where the log is lost, what else is consumed goes on.
            channel = self._channel = await session.channel(on_closed=lambda _: self._shut(session))
            await channel.consume(
                log.name,
                self._on_delivery,
                prefetch=PREFETCH,
                arguments={"x-stream-offset": self._next_offset or "first"},
                on_cancelled=lambda _: self._begin_again(),
            )
            self._opened_on = session
            self._down_since = None
            if self._told is not session:
                self._told = session
                for tell in self.on_open:
                    tell(session)
        self._writer.schedule()

    @property
    def _is_open(self) -> bool:
        return self._opened_on is not None and self._opened_on is self._session

    def _shut(self, session: Session) -> None:
        """It is opened again: with the next connection, or by `run`."""
        if self._opened_on is session:
            self._opened_on = None
            self._read = False

    def _begin_again(self) -> None:
        """The log was deleted, or is another one than it was: read it from its beginning."""
        _log.warning("the log of responses is read from its beginning")
        self._next_offset = 0
        if self._opened_on is not None:
            self._shut(self._opened_on)
        if self._channel is not None:
            self._channel.abandon("it is read from its beginning")

    def _on_delivery(self, delivery: Delivery) -> None:
        if delivery.channel is not self._channel:
            return
        delivery.channel.ack(delivery.tag)
        offset = (delivery.headers or {}).get("x-stream-offset")
        if isinstance(offset, int):
            if offset < self._next_offset:
                return
            self._next_offset = int(offset) + 1
        try:
            message = codec.decode_kept(delivery.body, delivery.content_type)
        except GarbageError as error:
            self._garbage.drop("responses", error)
            return
        if not isinstance(message, Records):
            self._garbage.drop("responses", "a job in the log")
            return
        self.shelf.apply(message.records, message.controller, time.time())
        for record in message.records:
            if isinstance(record, Marker) and record.nonce in self._markers:
                _resolve(self._markers[record.nonce])

    async def _barrier(self) -> None:
        nonce = secrets.token_hex(8)
        seen = self._markers[nonce] = asyncio.get_running_loop().create_future()
        try:
            self.note(Marker(nonce))
            await self._within(OPEN_TIMEOUT, seen)
        except BrokerUnavailableError:
            if self._links.up and not self._links.blocked:
                # A log that was made anew while we were away has nothing where we read on.
                self._begin_again()
            raise
        finally:
            del self._markers[nonce]

    # --- inside

    async def _within(self, timeout: float, awaited: "asyncio.Future[None]") -> None:
        try:
            async with asyncio.timeout(timeout):
                await awaited
        except TimeoutError as error:
            raise self._unavailable() from error

    def _unavailable(self) -> BrokerUnavailableError:
        why = self._links.problem or "the log of responses was not written or read in time"
        return BrokerUnavailableError(why, retry_after=RETRY_AFTER)


def _ignore(_: str) -> None: ...


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
