"""`Controller(dispatch_method)`: LLaVA's controller as a class, with its methods, around the registry and a policy.

Synchronous and usable alone, without a broker; the broker side feeds the same `registry`. It starts no thread: whoever
owns it calls `remove_stale_workers` every 30 s. It knows nothing of HTTP servers. Not for several threads at once.

Only `register_worker` without a status, `refresh_all_workers` and `get_worker_status` wait for a worker's answer. An
event loop asks by itself, and registers with the status that it got.
"""

import json
import logging
import random as random_module
import time
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any

from broker_controller.dispatch import DispatchMethod, ShortestQueue, make_dispatcher
from broker_controller.registration import WorkerStatus
from broker_controller.registry import EXPIRATION, Change, Registry
from broker_controller.session_key import SessionKey
from broker_controller.warm_caches import WarmCaches
from broker_controller.worker_record import WorkerRecord
from broker_wire.topology import check_worker_name

_log = logging.getLogger(__name__)

Probe = Callable[[str], Mapping[str, Any] | None]
"""Asks the HTTP worker of this name for its status; None when it does not give one."""

# LLaVA and FastChat wait as long for a worker's status.
PROBE_TIMEOUT = 5.0
# A status names some models; a longer answer is none.
MAX_STATUS_BYTES = 1024 * 1024


class Controller:
    """Who serves which model, and who gets the next request."""

    def __init__(
        self,
        dispatch_method: str | DispatchMethod,
        *,
        expiration: float = EXPIRATION,
        clock: Callable[[], float] = time.monotonic,
        random: random_module.Random | None = None,
        probe: Probe | None = None,
    ) -> None:
        """A controller that knows nobody yet.

        Args:
            dispatch_method: `queue`, `lottery`, `shortest_queue` or `affinity`.
            expiration: seconds without a heartbeat after which a worker is dropped.
            clock: seconds; the same one that the broker side passes to the registry.
            random: draws the lots.
            probe: asks an HTTP worker for its status, by default with a POST to `<name>/worker_get_status`.

        Raises: ValueError for another dispatch method.
        """
        self.dispatch_method = DispatchMethod.from_str(dispatch_method)
        self.registry = Registry(expiration)
        self._clock = clock
        self._caches = WarmCaches()
        self._dispatcher = make_dispatcher(self.dispatch_method, random or random_module.Random(), self._caches)
        # A caller who asks for an address wants one, also where a request itself may wait in the model's queue.
        self._address_dispatcher = self._dispatcher if self.hands_out_addresses else ShortestQueue()
        self._probe = probe or ask_worker_status

    @property
    def hands_out_addresses(self) -> bool:
        """Whether a worker can be chosen before its request is known, for old clients that ask for an address."""
        return self.dispatch_method in (DispatchMethod.LOTTERY, DispatchMethod.SHORTEST_QUEUE)

    # --- HTTP workers

    def register_worker(
        self,
        worker_name: str,
        check_heart_beat: bool,
        worker_status: Mapping[str, Any] | None,
        multimodal: bool = False,
    ) -> bool:
        """An HTTP worker registers, again or for the first time.

        Args:
            worker_name: its URL.
            check_heart_beat: whether it is dropped when it is silent.
            worker_status: its `model_names`, `speed` and `queue_length`; without one it is asked.
            multimodal: whether its models take images.

        Returns:
            False where there is no status, or a malformed one, or a worker of the broker has that name.

        Raises: NameRefusedError.
        """
        check_worker_name(worker_name)
        status = WorkerStatus.from_answer(worker_status or self._probe(worker_name))
        if status is None:
            _log.warning("worker not registered, it has no proper status worker=%s", worker_name)
            return False
        change = self.registry.register_http(worker_name, check_heart_beat, status, multimodal, self._clock())
        match change:
            case Change.IGNORED:
                _log.warning("worker not registered, a worker of the broker has its name worker=%s", worker_name)
            case Change.NEW:
                _log.info("worker registered worker=%s models=%s", worker_name, ",".join(status.model_names))
        return change is not Change.IGNORED

    def receive_heart_beat(self, worker_name: str, queue_length: int) -> bool:
        """An HTTP worker lives. False: it is not known, and should register again."""
        return self.registry.receive_heart_beat(worker_name, queue_length, self._clock())

    def refresh_all_workers(self) -> None:
        """Ask every HTTP worker again and drop those that do not answer; the others stay known all the while."""
        for record in self.registry.workers():
            kept = record.registration
            if kept is None:
                continue
            if not self.register_worker(record.name, kept.check_heart_beat, None, kept.multimodal):
                self.remove_worker(record.name)
                _log.info("worker dropped, it did not answer worker=%s", record.name)

    def remove_worker(self, worker_name: str) -> None:
        """Drop a worker. Unlike LLaVA's, it does nothing for one that is not known."""
        self.registry.remove(worker_name)

    def remove_stale_workers(self, now: float | None = None) -> list[WorkerRecord]:
        """Drop those who were silent for longer than the expiration, and return them; `now` as the clock has it."""
        return self.registry.expire(self._clock() if now is None else now)

    # --- models and addresses

    def list_models(self) -> list[str]:
        """The models that are served, sorted."""
        return sorted(self.registry.models())

    def list_multimodal_models(self) -> list[str]:
        """Those served with images, sorted."""
        return sorted(self.registry.multimodal_models())

    def list_language_models(self) -> list[str]:
        """Those served without images, sorted."""
        return sorted(self.registry.language_models())

    def get_worker_address(self, model_name: str) -> str:
        """The name of the worker to call for this model (an HTTP worker's name is its URL); "" for none.

        With `queue` and `affinity`, too, it names a worker, the one with the shortest queue: the class alone has no
        queue to name, and here is no session. The address counts as a request there until it is used, or for two
        seconds.
        """
        now = self._clock()
        record = self._address_dispatcher.choose(self.registry.workers_for(model_name, now), now)
        if record is None:
            return ""
        self.registry.note_address(record.name, now)
        return record.name

    def choose(self, model_name: str, session: SessionKey | None = None) -> str | None:
        """The worker to whose own queue a request goes; None: the model's queue. `registry.note_sent` counts it."""
        if self.dispatch_method is DispatchMethod.QUEUE:
            return None
        now = self._clock()
        record = self._dispatcher.choose(self.registry.workers_for(model_name, now), now, session)
        if record is None or record.load(now) >= max(1, record.slots):
            # Its own queue would pass it on; and only of the model's queue does the broker say that it is full.
            return None
        return record.name

    def note_served(self, session: SessionKey, worker_name: str) -> None:
        """This worker runs a request of the session, whoever was chosen: its cache is warm."""
        self._caches.note(session, worker_name, self._clock())

    # --- status

    def get_worker_status(self, worker_name: str) -> Mapping[str, Any] | None:
        """One worker's status: what the broker tells of it, else what it answers itself; None without an answer."""
        record = self.registry.get(worker_name)
        if record is None or not record.instance:
            return self._probe(worker_name)
        return _status(list(record.model_names), record.speed, record.load(self._clock()))

    def worker_api_get_status(self) -> dict[str, Any]:
        """The whole fleet as if it were one worker: a controller may register at another one. Nobody is asked."""
        now = self._clock()
        live = [record for record in self.registry.workers() if record.state.live]
        speed = sum((record.speed for record in live), 0.0)
        return _status(self.list_models(), speed, sum(record.load(now) for record in live))


def ask_worker_status(worker_name: str) -> Mapping[str, Any] | None:
    """POST to an HTTP worker's `/worker_get_status`; None when it does not answer within 5 s with a JSON object."""
    if not worker_name.startswith(("http://", "https://")):
        return None
    try:
        request = urllib.request.Request(worker_name + "/worker_get_status", method="POST")  # noqa: S310, checked above
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT) as response:  # noqa: S310
            answer = json.loads(response.read(MAX_STATUS_BYTES))
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        # Refused, cut or timed out; an HTTP error; no HTTP at all; an answer that is no JSON, or nested without end.
        _log.warning("worker gives no status worker=%s error=%s", worker_name, error)
        return None
    return answer if isinstance(answer, dict) else None


def _status(model_names: list[str], speed: float, queue_length: int) -> dict[str, Any]:
    # LLaVA's workers have whole speeds, and write them so.
    return {
        "model_names": model_names,
        "speed": int(speed) if speed.is_integer() else speed,
        "queue_length": queue_length,
    }
