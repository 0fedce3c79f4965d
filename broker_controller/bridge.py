"""HTTP workers of the old kind, made to look like workers of the broker: registration, heartbeats, who bridges whom.

Every controller knows every HTTP worker, from messages on `fleet`; one of them bridges it. The HTTP surface calls
`register` and `heartbeat`, `fleet` passes on what the other controllers say. What bridging one means is
`bridged_worker`'s, when a silent one is dropped is the registry's.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Mapping
from typing import Any

from broker_controller.address_guard import AddressGuard
from broker_controller.bridge_claims import Claims
from broker_controller.bridged_worker import STATUS_PATH, BridgeConfig, BridgedWorker, Profile, State
from broker_controller.controller import Controller
from broker_controller.links import Links
from broker_controller.nesting import LoopGuard
from broker_controller.registration import WorkerStatus, clamp_queue_length
from broker_controller.registry import Change
from broker_controller.watched_clock import WatchedClock
from broker_wire.messages import UpstreamHeartbeat, UpstreamRegistration
from workers_shim.engines.http.address import HttpAddress
from workers_shim.engines.http.old_worker import CONNECT_TIMEOUT, OldWorker, OldWorkerError

_log = logging.getLogger(__name__)

SWEEP_INTERVAL = 1.0
"""Seconds between two looks at who has expired."""
REPEAT_INTERVAL = 10.0
"""Seconds after which whoever bridges a worker tells controllers that came later of it."""
MOST_VERSION = 2**62
"""Nanoseconds of the year 2116: what says more is nonsense, and nothing could come after it."""
BRIDGED_TIME = 2.0
"""Seconds that a registration waits for the bridge. Without a broker it is registered all the same."""


class Bridges:
    """All HTTP workers that this controller knows. Everything runs on the controller's event loop."""

    def __init__(
        self,
        controller: Controller,
        links: Links,
        watched: WatchedClock,
        guard: AddressGuard,
        loops: LoopGuard,
        config: BridgeConfig,
    ) -> None:
        """`watched` is the clock that the controller's registry goes by."""
        self._controller = controller
        self._links = links
        self._watched = watched
        self._guard = guard
        self._loops = loops
        self._config = config
        self._tls = ssl.create_default_context()
        self._workers: dict[str, BridgedWorker] = {}
        self._tending: asyncio.TaskGroup | None = None
        self._claims = Claims(links, self._on_reconnected)

    # --- for the HTTP surface

    async def register(
        self,
        url: str,
        check_heart_beat: bool,
        status: Mapping[str, Any] | None = None,
        multimodal: bool = False,
        called_as: str = "",
    ) -> bool:
        """An HTTP worker registers, again or for the first time.

        Args:
            url: its address, and its name from now on.
            check_heart_beat: whether it is dropped when it is silent.
            status: its `model_names`, `speed` and `queue_length`; without one it is asked.
            multimodal: whether its models take images.
            called_as: the address of this controller that it registers at.

        Returns: False where there is no status, or a malformed one, or a worker of the broker has that name.
        Raises: AddressRefusedError, BadRequestError.
        """
        address = await self._guard.admit(url)
        answer = status or await self._ask_status(address)
        self._loops.check(url, answer or {}, called_as)
        said = WorkerStatus.from_answer(answer)
        if said is None:
            _log.warning("worker not registered, it has no proper status worker=%s", url)
            return False
        if not self._controller.register_worker(url, check_heart_beat, answer, multimodal):
            return False
        profile = Profile(said.model_names, said.speed, multimodal, check_heart_beat)
        worker = self._keep(url, profile, address)
        worker.version = max(worker.version + 1, time.time_ns())
        self._tell_others(worker, said.queue_length, silent_for=0.0)
        self._links.send_fleet(self._key("upstream_heartbeat", url), UpstreamHeartbeat(url, said.queue_length))
        # Whoever has registered may be sent requests: the model's queue should be there by then.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BRIDGED_TIME):
                await worker.bridged.wait()
        return True

    def heartbeat(self, url: str, queue_length: float) -> bool:
        """An HTTP worker lives. False: no controller knows it, and it should register again."""
        length = clamp_queue_length(queue_length)
        known = self._controller.receive_heart_beat(url, length)
        if not known:
            # A controller that has just started has heard of it from its bridge only.
            record = self._controller.registry.get(url)
            known = record is not None and record.bridged
        if known:
            self._links.send_fleet(self._key("upstream_heartbeat", url), UpstreamHeartbeat(url, length))
        return known

    def status(self) -> list[dict[str, Any]]:
        """What `/status` shows of them."""
        return [
            {"worker": worker.url, "state": worker.state.value, "models": list(worker.profile.models)}
            for worker in self._workers.values()
        ]

    # --- for the fleet

    def on_upstream_registration(self, message: UpstreamRegistration) -> None:
        """A controller, perhaps this one, says that an HTTP worker registered there, or that it bridges one."""
        status = WorkerStatus.from_answer(
            {"model_names": message.models, "speed": message.speed, "queue_length": message.queue_length}
        )
        registry = self._controller.registry
        if status is None or message.version > MOST_VERSION:
            return
        if message.check_heart_beat and message.silent_for > registry.expiration:
            return
        profile = Profile(status.model_names, status.speed, message.multimodal, message.check_heart_beat)
        known = self._workers.get(message.worker)
        if known is not None and not known.dropped:
            if message.version < known.version:
                # Said before the worker registered anew, or by one that has missed it and would go on saying so.
                self._tell_of(known)
                return
            known.version = message.version
            if known.profile == profile:
                return
        heard_at = self._watched() - message.silent_for
        change = registry.register_http(message.worker, message.check_heart_beat, status, message.multimodal, heard_at)
        if change is not Change.IGNORED:
            self._keep(message.worker, profile, None).version = message.version

    def on_upstream_heartbeat(self, message: UpstreamHeartbeat) -> None:
        """A controller, perhaps this one, got an HTTP worker's heartbeat."""
        self._controller.receive_heart_beat(message.worker, message.queue_length)

    def on_announce(self, name: str) -> None:
        """A bridge, of this controller or another, is a worker of the broker now."""
        worker = self._workers.get(name)
        if worker is not None:
            worker.bridged.set()
            # It may be the answer to the roll-call of a controller that has just come, which knows its name only.
            if worker.state is State.BRIDGING:
                self._tell_of(worker)

    def on_worker_gone(self, name: str) -> None:
        """A worker of the broker left or was lost. If it was a bridge, somebody has to follow."""
        worker, record = self._workers.get(name), self._controller.registry.get(name)
        if worker is None or (record is not None and record.bridged):
            # The late goodbye of a bridge that has a successor already.
            return
        worker.bridged.clear()
        if worker.state is State.WATCHING:
            worker.look_soon()

    # --- the task

    async def run(self) -> None:
        """Tend all of them until cancelled; then every bridge finishes what runs and says goodbye."""
        async with asyncio.TaskGroup() as group:
            self._tending = group
            try:
                for worker in self._workers.values():
                    self._start(group, worker)
                group.create_task(self._repeat(), name="registrations of bridged workers")
                while True:
                    await asyncio.sleep(SWEEP_INTERVAL)
                    self._sweep()
            finally:
                self._tending = None

    def _sweep(self) -> None:
        """Drop those that the registry has dropped."""
        for worker in self._workers.values():
            record = self._controller.registry.get(worker.url)
            if not worker.dropped and (record is None or record.registration is None):
                _log.info("HTTP worker dropped worker=%s", worker.url)
                worker.drop()

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(REPEAT_INTERVAL)
            for worker in list(self._workers.values()):
                if worker.state is State.BRIDGING:
                    self._tell_of(worker)

    def _tell_of(self, worker: BridgedWorker) -> None:
        record = self._controller.registry.get(worker.url)
        if record is not None and record.registration is not None:
            heard = record.registration
            silent_for = max(0.0, self._watched() - heard.last_seen)
            self._tell_others(worker, heard.queue_length, silent_for=silent_for)

    # --- inside

    def _keep(self, url: str, profile: Profile, address: HttpAddress | None) -> BridgedWorker:
        worker = self._workers.get(url)
        if worker is not None:
            worker.update(profile, address)
            return worker
        worker = self._workers[url] = BridgedWorker(
            url, profile, address, claims=self._claims, guard=self._guard, tls=self._tls, config=self._config
        )
        if self._tending is not None:
            self._start(self._tending, worker)
        return worker

    def _start(self, group: asyncio.TaskGroup, worker: BridgedWorker) -> None:
        task = group.create_task(worker.tend(), name=f"HTTP worker {worker.url}")
        task.add_done_callback(lambda task: self._on_tended(worker, task))

    def _on_tended(self, worker: BridgedWorker, task: asyncio.Task[None]) -> None:
        if self._tending is not None and not worker.dropped and not task.cancelled():
            # It registered again in the very moment.
            self._start(self._tending, worker)
        else:
            self._workers.pop(worker.url, None)

    async def _ask_status(self, address: HttpAddress) -> Mapping[str, Any] | None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                answer = await OldWorker(address, self._tls).ask(STATUS_PATH, {})
        except (OldWorkerError, TimeoutError) as error:
            _log.warning("worker gives no status worker=%s reason=%s", address.url, error or "no answer in time")
            return None
        return answer if isinstance(answer, dict) else None

    def _tell_others(self, worker: BridgedWorker, queue_length: int, *, silent_for: float) -> None:
        profile = worker.profile
        message = UpstreamRegistration(
            worker=worker.url,
            check_heart_beat=profile.check_heart_beat,
            models=profile.models,
            speed=profile.speed,
            queue_length=queue_length,
            multimodal=profile.multimodal,
            silent_for=silent_for,
            version=worker.version,
        )
        self._links.send_fleet(self._key("upstream_registration", worker.url), message)

    def _key(self, kind: str, url: str) -> str:
        return self._links.topology.fleet_key(kind, url)

    def _on_reconnected(self) -> None:
        for worker in self._workers.values():
            worker.look()
