"""How an asynchronous engine is stopped, or held, from other threads: by its own loop, and from nowhere else.

Used by `run`, on whatever loop the engine has.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from workers_shim.request import Cancelled
from workers_shim.stream import OutgoingStream


class DeadlinePassedError(Exception):
    """The request's time is over."""


class Interruption:
    """Cancels one task, once."""

    def __init__(self, task: "asyncio.Task[Any] | None") -> None:
        self.task = task
        self.struck = False
        self.expired = False

    def strike(self) -> None:
        """Nobody wants the rest."""
        if self.task is not None and not self.struck:
            self.struck = True
            self.task.cancel()

    def expire(self) -> None:
        """The deadline has passed."""
        self.expired = True
        self.strike()


@contextlib.contextmanager
def interruptible(stream: OutgoingStream, deadline: float) -> Iterator[Interruption]:
    """A cancel, or the deadline, interrupts whatever the present task awaits in here.

    Raises: Cancelled, DeadlinePassedError.
    """
    loop = asyncio.get_running_loop()
    interruption = Interruption(asyncio.current_task(loop))
    stream.on_cancelled(lambda: _call_in(loop, interruption.strike))
    timer = loop.call_later(max(0.0, deadline - time.monotonic()), interruption.expire)
    try:
        yield interruption
    except asyncio.CancelledError:
        if interruption.expired:
            raise DeadlinePassedError from None
        if interruption.struck:
            raise Cancelled from None
        raise
    finally:
        interruption.task = None
        timer.cancel()


async def writable(stream: OutgoingStream) -> None:
    """Wait until the engine may go on, or the stream is cancelled."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[None] = loop.create_future()
    stream.on_writable(lambda: _call_in(loop, _set_unless_done, opened))
    await opened


def _call_in(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    # The loop is closed only after the engine has come back; then there is nobody left to tell.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *args)


def _set_unless_done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
