"""A test that hangs beyond its timeout ends its process, with every thread's traceback on stderr.

pytest-timeout raises in the test, once, and not again while that test cleans up: a cleanup that waits for the same
thing, a thread that `asyncio.run` waits for at its end, or a signal that a callback swallows would hang the run.
pytest's own `faulthandler_exit_on_timeout` knows no test's own timeout, and is called off by a test's first failure.
"""

import faulthandler
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_GRACE_SECONDS = 60.0
_STDERR = pytest.StashKey[int]()


def open_stderr(config: pytest.Config) -> None:
    """To be called while pytest does not capture the process's stderr."""
    assert sys.__stderr__ is not None
    config.stash[_STDERR] = os.dup(sys.__stderr__.fileno())


def close_stderr(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])


@contextmanager
def hang_guard(item: pytest.Item) -> Iterator[None]:
    """Around one phase of a test: setup, call or teardown."""
    marker = item.get_closest_marker("timeout")
    option = item.config.getoption("timeout")
    timeout = float(marker.args[0] if marker else item.config.getini("timeout") if option is None else option)
    if not timeout:
        yield  # who switches timeouts off looks at it with a debugger
        return
    faulthandler.dump_traceback_later(timeout + _GRACE_SECONDS, file=item.config.stash[_STDERR], exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
