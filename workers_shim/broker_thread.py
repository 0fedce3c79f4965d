"""The thread that a worker's broker side lives on, and the ways to reach it from other threads.

Made by `worker`. An engine that blocks its own thread for a minute delays neither heartbeats nor other streams,
because nothing of the user's ever runs here.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from workers_shim.execution import EngineExecutor
from workers_shim.loops import new_event_loop
from workers_shim.session import LeaveReason, SessionConfig, WorkerSession

T = TypeVar("T")

ENGINES_RETURN = 3.0
"""Seconds that engines have to come back in after the worker has left; by then their streams are over."""
ENGINES_RETURN_AT_ONCE = 0.3
"""The same when the worker was told to end at once."""


class BrokerThread:
    """One life of a worker on the broker.

    Attributes:
        finished: why it left, or what broke; set when the thread has nothing more to do.
        engines_hang: after the end: an engine has not come back to its thread.
    """

    def __init__(self, config: SessionConfig, executor: EngineExecutor) -> None:
        self.finished: Future[LeaveReason] = Future()
        self.engines_hang = False
        self._config = config
        self._executor = executor
        self._session: WorkerSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="broker", daemon=True)

    def start(self) -> None:
        """Begin, and return when the session can be reached (it need not be connected)."""
        self._thread.start()
        self._ready.wait()

    def call(self, action: Callable[[WorkerSession], object]) -> None:
        """Have it done on the broker's loop; nothing happens after the end. Called from any thread."""
        session, loop = self._session, self._loop
        if session is not None and loop is not None:
            # The loop is closed a moment before `finished` says so.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(action, session)

    def run(self, action: Callable[[WorkerSession], Coroutine[Any, Any, T]]) -> "Future[T] | None":
        """The same for what has to be awaited; None after the end."""
        # What the session was made from is behind us then, so nothing is missed in between.
        self._ready.wait()
        session, loop = self._session, self._loop
        if session is None or loop is None:
            return None
        coroutine = action(session)
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:
            # As above.
            coroutine.close()
            return None

    def join(self) -> None:
        """Wait for the end of the thread. Signal handlers run meanwhile."""
        while self._thread.is_alive():
            self._thread.join(1.0)

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                reason = runner.run(self._live())
        except BaseException as error:  # noqa: BLE001 - whatever broke is raised where the worker was started
            self.finished.set_exception(error)
        else:
            self.finished.set_result(reason)
        finally:
            self._ready.set()

    async def _live(self) -> LeaveReason:
        self._session = WorkerSession(self._config, self._executor, self._executor.cards)
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        reason = LeaveReason.ENDED
        try:
            reason = await self._session.run()
        finally:
            patience = ENGINES_RETURN_AT_ONCE if reason is LeaveReason.ENDED else ENGINES_RETURN
            self.engines_hang = not await self._executor.aclose(patience)
        return reason
