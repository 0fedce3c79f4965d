"""The threads that engines run on: one a slot, and one for each engine that wants a single loop for all its streams.

Used by `execution`. All are daemons: an engine that hangs must not keep the process from ending. They know nothing of
requests; a job is anything with `run...` methods that do not raise, and `released`.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from workers_shim.loops import new_event_loop

T = TypeVar("T")


class SharedJob(Protocol):
    """One piece of work for a shared loop. None of its methods raises."""

    async def run_shared(self) -> None:
        """All of the work, on a shared loop."""

    def released(self) -> None:
        """The thread is free again, or the task on the shared loop is over."""


class Job(SharedJob, Protocol):
    """One piece of work for a thread, or for a shared loop."""

    def run(self, thread: "SlotThread") -> None:
        """All of the work, on a slot's thread."""


class SlotThread:
    """Runs one job after another, on a thread with an event loop of its own for those that are asynchronous."""

    def __init__(self, idle: "deque[SlotThread]", number: int) -> None:
        self._idle = idle
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._runner: asyncio.Runner | None = None
        self.thread = threading.Thread(target=self._main, name=f"slot-{number}", daemon=True)
        self.thread.start()

    def give(self, job: Job | None) -> None:
        """Run this after the present one; None ends the thread."""
        self._jobs.put(job)

    def run_coroutine(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it to its end on this thread's loop. The loop stays, so an engine may keep a client on it."""
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=new_event_loop)
        return self._runner.run(coroutine)

    def _main(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run(self)
            # Idle before the slot counts as free: the next request may come while `released` still runs.
            self._idle.append(self)
            job.released()
            del job
        if self._runner is not None:
            self._runner.close()


class SlotThreads:
    """A pool that grows to as many threads as jobs ever ran at once; the slots of the worker bound it."""

    def __init__(self) -> None:
        self._idle: deque[SlotThread] = deque()
        self._threads: list[SlotThread] = []

    def start(self, job: Job) -> None:
        """Run it on a thread of its own. Called from one thread only."""
        try:
            thread = self._idle.pop()
        except IndexError:
            thread = SlotThread(self._idle, len(self._threads))
            self._threads.append(thread)
        thread.give(job)

    def close(self, timeout: float) -> bool:
        """End the threads, waiting `timeout` seconds at most. False: an engine did not come back."""
        for thread in self._threads:
            thread.give(None)
        return _join([thread.thread for thread in self._threads], timeout)


class SharedLoop:
    """One thread with one loop, for all streams of an engine that has one asynchronous client."""

    def __init__(self, name: str) -> None:
        self._loop = new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retired = False
        self.thread = threading.Thread(target=self._main, name=f"loop-{name}", daemon=True)
        self.thread.start()

    def start(self, job: SharedJob) -> None:
        """Run it as a task of the loop. Called from any thread."""
        self._loop.call_soon_threadsafe(self._begin, job)

    def retire(self) -> None:
        """End the thread when what runs, or was started before this, is over. Called from any thread."""
        self._loop.call_soon_threadsafe(self._retire)

    @property
    def over(self) -> bool:
        """The thread has ended."""
        return not self.thread.is_alive()

    def close(self, timeout: float) -> bool:
        """Cancel what runs and end the thread, waiting `timeout` seconds at most."""
        # A loop that was to end by itself may be closed by now.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        return _join([self.thread], timeout)

    def _begin(self, job: SharedJob) -> None:
        task = self._loop.create_task(job.run_shared())
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._over(task, job))

    def _over(self, task: asyncio.Task[None], job: SharedJob) -> None:
        self._tasks.discard(task)
        job.released()
        self._stop_if_unused()

    def _retire(self) -> None:
        self._retired = True
        self._stop_if_unused()

    def _stop_if_unused(self) -> None:
        if self._retired and not self._tasks:
            self._loop.stop()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            for task in self._tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()


def _join(threads: list[threading.Thread], timeout: float) -> bool:
    until = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
