"""Wait for a condition instead of sleeping. Used by the tests through the fixtures of conftest.py."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import pytest

T = TypeVar("T")
_POLL_SECONDS = 0.05


class Eventually(Protocol):
    """Type of the fixture `eventually`."""

    async def __call__(self, condition: Callable[[], T | Awaitable[T]], within: float = 30.0) -> T: ...


class EventuallySync(Protocol):
    """Type of the fixture `eventually_sync`."""

    def __call__(self, condition: Callable[[], T], within: float = 30.0) -> T: ...


async def eventually(condition: Callable[[], T | Awaitable[T]], within: float = 30.0) -> T:
    """Poll `condition` until it is true and return its value; fail with the last one after `within` seconds.

    An AssertionError in the condition means "not yet".
    """
    deadline = time.monotonic() + within
    while True:
        try:
            last: object = condition()
            if inspect.isawaitable(last):
                last = await last
            if last:
                return last  # type: ignore[return-value]  # the awaited or the plain T
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within} s; the last value was {last!r}")
        await asyncio.sleep(_POLL_SECONDS)


def eventually_sync(condition: Callable[[], T], within: float = 30.0) -> T:
    """The same for tests without an event loop."""
    deadline = time.monotonic() + within
    while True:
        try:
            last: object = condition()
            if last:
                return last  # type: ignore[return-value]  # it is the T
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within} s; the last value was {last!r}")
        time.sleep(_POLL_SECONDS)
