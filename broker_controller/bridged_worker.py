"""One HTTP worker of the old kind, as one controller tends it: claims it, bridges it, notices that it is away.

    WATCHING ──claimed──> BRIDGING ──unreachable──> AWAY ──answers──> BRIDGING
       ^                     │                       │
       └──── another's ──────┴───────────────────────┘        dropped: from anywhere to the end
    REFUSED                  its address may not be called from here: others may bridge it

Bridging means to be a worker on the broker under its URL, an ordinary one of `workers_shim`. Owned by `bridge`.
"""

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from broker_controller.address_guard import AddressGuard
from broker_controller.bridge_claims import Claim, Claims
from broker_controller.errors import ServiceError
from broker_wire.amqp import TLSFiles
from broker_wire.topology import QueueBounds
from workers_shim import Worker
from workers_shim.config import LeaveReason
from workers_shim.engines.http.address import HttpAddress
from workers_shim.engines.http.engine import HttpEngine
from workers_shim.engines.http.old_worker import CONNECT_TIMEOUT, OldWorker, OldWorkerError
from workers_shim.engines.http.questions import answers_of

_log = logging.getLogger(__name__)

WATCH_INTERVAL = 4.0
"""Seconds between two looks at whether the worker is free to claim; a goodbye or an obituary is a reason to look."""
AWAY_INTERVAL = 5.0
"""Seconds between two questions to a worker that cannot be reached."""
STATUS_PATH = "/worker_get_status"


class BridgeConfig(Struct, frozen=True):
    """What bridges need to know to be workers on the broker.

    Attributes:
        slots: requests that an HTTP worker is given at once. FastChat's workers run five.
        drain_timeout: seconds that running requests have when a bridge ends.
    """

    broker_url: str
    tls: TLSFiles | None = None
    prefix: str = "bc"
    bounds: QueueBounds = QueueBounds()
    slots: int = 5
    drain_timeout: float = 10.0


class Profile(Struct, frozen=True):
    """What an HTTP worker serves, as it registered."""

    models: tuple[str, ...]
    speed: float
    multimodal: bool
    check_heart_beat: bool


class State(StrEnum):
    """What this controller does for the worker."""

    WATCHING = "watching"
    BRIDGING = "bridging"
    AWAY = "away"
    REFUSED = "refused"


class BridgedWorker:
    """One registered HTTP worker. `tend` is its whole life on this controller; all else tells it what is new."""

    def __init__(
        self,
        url: str,
        profile: Profile,
        address: HttpAddress | None,
        *,
        claims: Claims,
        guard: AddressGuard,
        tls: ssl.SSLContext,
        config: BridgeConfig,
    ) -> None:
        """`address` None: it registered at another controller, and this one has not held it against its own list."""
        self.url = url
        self.profile = profile
        self.version = 0
        """Of its latest registration: the higher, the later."""
        self.state = State.WATCHING
        self.dropped = False
        self.bridged = asyncio.Event()
        """Somebody, this controller or another, has announced it as a worker of the broker."""
        self._claims = claims
        self._guard = guard
        self._tls = tls
        self._config = config
        self._news = asyncio.Event()
        self._unreachable = False
        self._client = None if address is None else OldWorker(address, tls)

    # --- what is new

    def update(self, profile: Profile, address: HttpAddress | None) -> None:
        """It registered again, perhaps with other models, or at another address behind the same name."""
        if profile != self.profile:
            self.profile = profile
            self.bridged.clear()
        self.dropped = False
        if address is not None:
            self._client = OldWorker(address, self._tls) if self._client is None else self._client
            self._client.address = address
        self.look()

    def drop(self) -> None:
        """It has expired: finish what runs and be done with it."""
        self.dropped = True
        self.look()

    def look(self) -> None:
        """Something has happened: look at once instead of at the next time."""
        self._news.set()

    def look_soon(self) -> None:
        """Look within a moment: whoever bridged it has gone, and all controllers know at the same time."""
        asyncio.get_running_loop().call_later(random.uniform(0.05, 0.4), self.look)

    # --- its life

    async def tend(self) -> None:
        """Bridge it whenever no other controller does, until it is dropped or this is cancelled."""
        try:
            while not self.dropped:
                client = await self._admitted()
                if client is None:
                    self._set_state(State.REFUSED)
                    await self._wait(None)
                    continue
                claim = await self._claims.claim(self.url)
                if claim is not Claim.OURS:
                    self._set_state(State.WATCHING)
                    await self._wait(WATCH_INTERVAL)
                elif self.state is State.AWAY and not await self._answers(client):
                    await self._wait(AWAY_INTERVAL)
                elif not self.profile.models:
                    await self._wait(WATCH_INTERVAL)
                else:
                    await self._bridge(client)
        finally:
            await self._claims.release(self.url)

    async def _admitted(self) -> OldWorker | None:
        if self._client is None:
            try:
                self._client = OldWorker(await self._guard.admit(self.url), self._tls)
            except ServiceError as error:
                _log.warning("worker not bridged by this controller worker=%s reason=%s", self.url, error)
        return self._client

    async def _answers(self, client: OldWorker) -> bool:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await client.ask(STATUS_PATH, {})
        except (OldWorkerError, TimeoutError):
            return False
        return True

    async def _bridge(self, client: OldWorker) -> None:
        """Be its worker on the broker until there is a reason to leave."""
        profile = self.profile
        self._unreachable = False
        worker = self._make_worker(client, profile)
        self._set_state(State.BRIDGING)
        serving = asyncio.create_task(worker.serve(), name=f"bridge {self.url}")
        serving.add_done_callback(lambda _: self.look())
        try:
            while not serving.done() and not await self._has_reason_to_leave(profile):
                await self._wait(None)
        finally:
            # A cancelled worker takes nothing more, finishes what runs in `drain_timeout`, and says goodbye.
            serving.cancel()
            await asyncio.wait([serving])
        self._set_state(State.AWAY if self._unreachable else State.WATCHING)
        if not serving.cancelled():
            await self._ended_by_itself(serving)

    async def _ended_by_itself(self, serving: asyncio.Task[LeaveReason]) -> None:
        """Somebody else took the name over or drained the bridge, or it broke: not at once again."""
        error = serving.exception()
        if error is not None:
            _log.error("bridge failed, it will be tried again worker=%s", self.url, exc_info=error)
        else:
            _log.warning("bridge left worker=%s reason=%s", self.url, serving.result().value)
        self._news.clear()
        await self._wait(WATCH_INTERVAL)

    async def _has_reason_to_leave(self, profile: Profile) -> bool:
        if self.dropped or self._unreachable or self.profile != profile:
            return True
        return await self._claims.claim(self.url) is Claim.ANOTHERS

    def _make_worker(self, client: OldWorker, profile: Profile) -> Worker:
        config = self._config
        worker = Worker(
            self.url,
            slots=config.slots,
            speed=profile.speed,
            broker_url=config.broker_url,
            prefix=config.prefix,
            tls=config.tls,
            bounds=config.bounds,
            drain_timeout=config.drain_timeout,
            bridged=True,
        )
        engine = HttpEngine(client, self._from_engine_thread(self._note_unreachable))
        abilities = ("chat", "completion", "vision") if profile.multimodal else ("chat", "completion")
        answers = answers_of(client)
        for model in profile.models:
            worker.add_model(
                model, engine.generate, abilities=abilities, resume="prefix", shared_loop=True, answers=answers
            )
        return worker

    def _from_engine_thread(self, callback: Callable[[str], None]) -> Callable[[str], None]:
        loop = asyncio.get_running_loop()

        def call(reason: str) -> None:
            # The loop may be closed before the last engine has come back; then there is nobody left to tell.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(callback, reason)

        return call

    def _note_unreachable(self, reason: str) -> None:
        if not self._unreachable:
            self._unreachable = True
            _log.warning("HTTP worker is away, not bridged until it answers worker=%s reason=%s", self.url, reason)
            self.look()

    def _set_state(self, state: State) -> None:
        """The one place where the state changes."""
        if state is not self.state:
            _log.info("HTTP worker worker=%s state=%s before=%s", self.url, state.value, self.state.value)
            self.state = state

    async def _wait(self, seconds: float | None) -> None:
        """Until something has happened, or about so many seconds: not all controllers look at the same time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds is None else seconds * random.uniform(0.75, 1.25)):
                await self._news.wait()
        self._news.clear()
