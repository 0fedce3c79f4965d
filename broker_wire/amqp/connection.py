"""A connection that comes back: connects, prepares itself by `on_connected`, waits for the loss, and begins again.

Programs hold one `Connection` for each purpose (publishing, consuming) and get a new `Session` after every reconnect.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from itertools import cycle
from typing import Any

from broker_wire.amqp.addresses import BrokerAddresses
from broker_wire.amqp.link import Link, open_link, silence_pika
from broker_wire.amqp.session import Session
from broker_wire.errors import BrokerError, BrokerRefusedError, NotConnectedError

__all__ = ["Connection", "ConnectionState", "Session", "retry_delay"]

_log = logging.getLogger(__name__)

FIRST_DELAY = 0.1
MAX_DELAY = 15.0
"""Seconds: bounds of the pause before a try."""
STABLE_AFTER = 5.0
"""Seconds that a connection has to live until the next pause is short again; a flapping one must not spin."""
PREPARE_TIMEOUT = 180.0
"""Seconds that `on_connected` has. Each call in it has a deadline, and a dead broker is found by the heartbeat: when a
node of a cluster has died, hundreds of workers declare at the others at once, and who begins again makes it longer."""
GIVE_UP_TIMEOUT = 5.0
"""Seconds that `on_connected` has to end after it was cancelled."""
REPEAT_LOG_AFTER = 60.0
"""Seconds until the same failure is logged again."""


class ConnectionState(Enum):
    """DISCONNECTED → CONNECTING → PREPARING → CONNECTED, and from each back to DISCONNECTED."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    PREPARING = "preparing"
    CONNECTED = "connected"


def retry_delay(failures: int, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait after so many failures in a row: exponential with full jitter, so that a fleet spreads out."""
    # The exponent is bounded, or an hour without a broker would overflow it.
    return draw() * min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))


def _ignore(_: object) -> None: ...


def _look_at(task: asyncio.Future[None]) -> None:
    """So that asyncio does not complain where the failure is of no interest any more."""
    if not task.cancelled():
        task.exception()


class Connection:
    """Give it to a task: `run` connects and reconnects without end; cancel that to close in order."""

    def __init__(
        self,
        addresses: BrokerAddresses,
        *,
        name: str,
        on_connected: Callable[[Session], Awaitable[None]],
        on_lost: Callable[[BrokerError], None] = _ignore,
        on_blocked: Callable[[bool], None] = _ignore,
    ) -> None:
        """
        Args:
            name: shown in the broker's list of connections, and in the log.
            on_connected: declares what is needed and starts consumers; has 30 s. If it raises, or the connection goes
                meanwhile, the next try follows.
            on_lost: called when a connection goes for which `on_connected` had finished, at that very moment, too; not
                when `run` is cancelled.
            on_blocked: True when the broker stops reading (a memory or disk alarm), False when it reads again or the
                blocked connection is gone.
        """
        self.name = name
        self.addresses = addresses
        self.state = ConnectionState.DISCONNECTED
        self.blocked = False
        self.server_version: tuple[int, ...] = ()
        self.last_error: BrokerError | None = None
        self.established = 0
        """Times that it was connected: all but the first are reconnects."""
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._on_blocked = on_blocked
        self._ready = asyncio.Event()
        self._hurried = asyncio.Event()
        self._warned: set[str] = set()
        self._last_logged: tuple[str, float] = ("", 0.0)

    @property
    def connected(self) -> bool:
        """Whether `on_connected` has finished and the connection stands."""
        return self.state is ConnectionState.CONNECTED

    async def run(self) -> None:
        """Never returns; cancel it to close in order (within 2 s)."""
        silence_pika()
        endpoints = cycle(self.addresses.endpoints)
        failures = 0
        while True:
            endpoint = next(endpoints)
            connected_at: float | None = None
            try:
                self.state = ConnectionState.CONNECTING
                link = await open_link(endpoint, self.addresses, self.name)
                try:
                    await self._prepare(link)
                    connected_at = time.monotonic()
                    error = await asyncio.shield(link.ended)
                finally:
                    await self._disconnect(link)
            except BrokerError as failure:
                error = failure
            finally:
                self.state = ConnectionState.DISCONNECTED
            stable = connected_at is not None and time.monotonic() - connected_at >= STABLE_AFTER
            failures = 1 if stable else failures + 1
            self._report(error, lost=connected_at is not None)
            if connected_at is not None:
                self._guarded(self._on_lost, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(retry_delay(failures)):
                    await self._hurried.wait()
            self._hurried.clear()

    def hurry(self) -> None:
        """The broker is there, as another connection has just found: if this one waits for its next try, try now."""
        if not self.connected:
            self._hurried.set()

    async def wait_connected(self, timeout: float) -> None:
        """Until `on_connected` has finished.

        Raises: BrokerError after `timeout` seconds: the last failure, with its sentence.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            if self.last_error is not None:
                raise self.last_error.with_traceback(None) from None
            raise NotConnectedError(f"no connection to {self.addresses.safe()} within {timeout:g} s") from None

    async def _prepare(self, link: Link) -> None:
        self.state = ConnectionState.PREPARING
        self.server_version = link.server_version
        session = Session(link, self._warned, on_blocked=self._set_blocked, on_ended=self._set_disconnected)
        await self._run_on_connected(session, link)
        if link.ended.done():
            # It went as `on_connected` finished: whoever has set something up there hears of the loss as of any other.
            return
        self.state = ConnectionState.CONNECTED
        self.established += 1
        self._hurried.clear()
        self.last_error = None
        self._last_logged = ("", 0.0)
        _log.info(
            "broker connected connection=%s address=%s version=%s",
            self.name,
            link.endpoint.safe(),
            ".".join(map(str, link.server_version)),
        )
        self._ready.set()

    async def _run_on_connected(self, session: Session, link: Link) -> None:
        task = asyncio.ensure_future(self._on_connected(session))
        task.add_done_callback(_look_at)
        try:
            waited: set[asyncio.Future[Any]] = {task, link.ended}
            await asyncio.wait(waited, timeout=PREPARE_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=GIVE_UP_TIMEOUT)
        if task.done() and not task.cancelled() and task.exception() is None:
            return
        if link.ended.done():
            # Whatever the task raised came of that.
            raise link.ended.result()
        if not task.done() or task.cancelled():
            raise NotConnectedError(f"preparing the connection {self.name} took more than {PREPARE_TIMEOUT:g} s")
        failure = task.exception()
        if isinstance(failure, BrokerError):
            raise failure
        if failure is not None:
            # A fault of the program's own, perhaps of this moment only: say where, and try again as for any other.
            _log.error("preparing the connection failed connection=%s", self.name, exc_info=failure)
            raise NotConnectedError(f"preparing the connection {self.name} failed: {failure!r}") from failure

    async def _disconnect(self, link: Link) -> None:
        self._set_disconnected()
        await link.finish("client leaves")
        if self.blocked:
            self._set_blocked(False)

    def _set_disconnected(self, _: object = None) -> None:
        self._ready.clear()
        self.state = ConnectionState.DISCONNECTED

    def _set_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        _log.warning("broker %s connection=%s", "blocked publishing" if blocked else "unblocked publishing", self.name)
        self._guarded(self._on_blocked, blocked)

    def _guarded(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001  a fault in a callback must not end the loop that reconnects
            _log.exception("callback failed connection=%s callback=%r", self.name, callback)

    def _report(self, error: BrokerError, *, lost: bool) -> None:
        self.last_error = error
        said, when = self._last_logged
        now = time.monotonic()
        if str(error) == said and now - when < REPEAT_LOG_AFTER:
            return
        self._last_logged = (str(error), now)
        # A refusal does not heal by itself: someone must act.
        level = logging.ERROR if isinstance(error, BrokerRefusedError) else logging.WARNING
        _log.log(level, "broker %s connection=%s reason=%s", "lost" if lost else "not reachable", self.name, error)
