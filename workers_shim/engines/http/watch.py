"""Keeps a worker's models those of the HTTP worker behind it: asks it for its status, again and again.

Made by the command `http`. While the HTTP worker is away the worker on the broker has no model, so that no request
comes to it; when it is back, perhaps with other models, it has them again.
"""

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Mapping, Sequence

from workers_shim import Worker
from workers_shim.engines.http.address import HttpAddress
from workers_shim.engines.http.engine import HttpEngine
from workers_shim.engines.http.old_worker import CONNECT_TIMEOUT, OldWorker, OldWorkerError, UnreachableError
from workers_shim.engines.http.questions import answers_of
from workers_shim.engines.http.status import Status, abilities_of, choose_models, read_status

_log = logging.getLogger(__name__)

STATUS_PATH = "/worker_get_status"
LOOK_INTERVAL = 1.0
"""Seconds between two looks; a status costs the worker less than a token does."""
MAX_MISSES = 5
"""Looks without an answer after which a worker is away that takes connections: one that computes is slow to tell."""


class Watch:
    """One HTTP worker and the worker that serves it."""

    def __init__(self, worker: Worker, address: HttpAddress, wanted: Sequence[str] | None = None) -> None:
        """`wanted`: which of its models, see `choose_models`."""
        self._worker = worker
        self._url = address.url
        self._wanted = wanted
        self._client = OldWorker(address, ssl.create_default_context())
        self._engine = self._make_engine()
        self._served: dict[str, str] = {}
        self._misses = 0
        self._news = threading.Event()
        self._unreachable = ""

    def wait_for_worker(self) -> None:
        """Block until it answers, however long it takes to load its model."""
        waited = False
        while self._ask() is None:
            if not waited:
                _log.warning("waiting for the HTTP worker url=%s reason=%s", self._url, self._unreachable)
                waited = True
            self._news.wait(LOOK_INTERVAL)

    def begin(self) -> Status:
        """Serve what it has.

        Raises: ValueError, with a sentence, when it does not answer, or does not serve what is wanted of it.
        """
        status = self._ask()
        if status is None:
            raise ValueError(self._unreachable or f"the worker at {self._url} gives no status")
        names = choose_models(self._wanted, status.model_names)
        if not names or len(names) < len(set(self._wanted or ())):
            raise ValueError(
                f"the worker at {self._url} serves {', '.join(status.model_names) or 'no model'}, "
                f"which is not what --model asks for: {', '.join(self._wanted or ['any'])}"
            )
        self._serve(names)
        return status

    def start(self) -> None:
        """Look after it from now on, on a thread of its own, until the worker has left."""
        threading.Thread(target=self._main, name=f"watch {self._url}", daemon=True).start()

    def _main(self) -> None:
        lived = False
        while self._worker.alive or not lived:
            lived = lived or self._worker.alive
            self._news.wait(LOOK_INTERVAL)
            if self._news.is_set():
                # An engine could not reach it, and nobody else should try.
                self._news.clear()
                self._serve({})
            self._look()

    def _look(self) -> None:
        status = self._ask()
        if status is not None:
            self._misses = 0
            self._serve(choose_models(self._wanted, status.model_names))
            self._worker.report_elsewhere(max(0, int(status.queue_length) - self._engine.running))
            return
        self._misses += 1
        if self._unreachable or self._misses >= MAX_MISSES:
            self._serve({})

    def _ask(self) -> Status | None:
        """None without a status; `_unreachable` says why where not even a connection came about."""
        self._unreachable = ""
        try:
            return asyncio.run(self._status())
        except UnreachableError as error:
            self._unreachable = str(error)
        except (OldWorkerError, TimeoutError) as error:
            _log.info("no status of the HTTP worker url=%s reason=%s", self._url, str(error) or "no answer in time")
        return None

    async def _status(self) -> Status:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            answer = await self._client.ask(STATUS_PATH, {})
        status = read_status(answer)
        if status is None:
            raise OldWorkerError("its answer is not of the form of a status")
        return status

    def _serve(self, names: Mapping[str, str]) -> None:
        """Serve these models, ours by theirs, and no others."""
        if names == self._served:
            return
        if not self._served:
            # It may be another process by now, with other templates.
            self._engine = self._make_engine()
        self._engine.their_names = names
        _log.log(
            logging.INFO if names else logging.WARNING,
            "HTTP worker url=%s models=%s",
            self._url,
            ",".join(names) or "none, it is away",
        )
        # A broker that is slow to take a change, or away, has it as soon as it can.
        for ours in self._served.keys() - names.keys():
            with contextlib.suppress(TimeoutError):
                self._worker.remove_model(ours)
        for ours, theirs in names.items() - self._served.items():
            with contextlib.suppress(TimeoutError):
                self._worker.add_model(
                    ours,
                    self._engine.generate,
                    abilities=abilities_of(theirs),
                    resume="prefix",
                    shared_loop=True,
                    answers=answers_of(self._client, names),
                )
        self._served = dict(names)

    def _make_engine(self) -> HttpEngine:
        return HttpEngine(self._client, lambda _reason: self._news.set())
