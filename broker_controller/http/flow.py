"""What uvicorn's connection waits with, in a smaller form: its own has two queues of waiters where one can wait.

Three `deque`s are 2.3 KB of an open stream. Put in by `connection`.
"""

import asyncio
from typing import TypeVar

ItemT = TypeVar("ItemT")


class Signal:
    """An `asyncio.Event` for whom only one waits at a time."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        """Whether `wait` returns at once."""
        return self._is_set

    def set(self) -> None:
        """Whoever waits goes on."""
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """Whoever comes next waits."""
        self._is_set = False

    async def wait(self) -> bool:
        """Until it is set."""
        if not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return True


class Flow:
    """Holds what reads from a transport, and who writes to it. The interface of uvicorn's `FlowControl`."""

    __slots__ = ("_transport", "_writable", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False
        self._writable = Signal()
        self._writable.set()

    async def drain(self) -> None:
        """Until the transport takes more."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        """No more of a request is read."""
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """It is read again."""
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The transport holds much that is unsent."""
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """It does no longer, or the connection is lost."""
        self.write_paused = False
        self._writable.set()


class Pipeline(list[ItemT]):
    """The requests that wait for the answer before theirs: a `deque` as far as uvicorn uses one, mostly empty."""

    __slots__ = ()

    def appendleft(self, item: ItemT) -> None:
        """A request that came after all others."""
        self.insert(0, item)
