"""A process that is a worker and nothing else: how its interpreter is tuned, its signals, its end. Used by `worker`."""

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from workers_shim.broker_thread import BrokerThread

_log = logging.getLogger(__name__)

GC_THRESHOLDS = (100_000, 50, 1_000)
"""Frames are many, short-lived and free of cycles; by its defaults the collector takes a quarter of a busy worker."""
SWITCH_INTERVAL = 0.0005
"""Seconds. An engine that computes in Python gives the interpreter away only when another thread asks for it, this long
after it asked, and the broker's thread asks several times for each message. Measured with one such engine on two cores:
a round trip through the broker's thread took 5.2 ms with Python's 5 ms, and 0.6 ms with this; the engine lost 4 %."""


def tune_interpreter() -> None:
    """For many short-lived frames, and a broker's thread beside engines that compute in Python."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


@contextlib.contextmanager
def drained_by_signals(life: BrokerThread, drain_timeout: float) -> Iterator[None]:
    """The first signal drains, the second one ends. Only the main thread may set that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = 0

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        name = signal.Signals(number).name
        if received == 1:
            _log.info("draining signal=%s seconds_at_most=%g a second signal ends at once", name, drain_timeout)
            life.call(lambda session: session.drain())
        else:
            _log.warning("ending at once signal=%s", name)
            life.call(lambda session: session.end_now())

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_process(code: int) -> NoReturn:
    """End while an engine's thread is somewhere in native code, which Python's own way out does not survive."""
    _log.warning("an engine has not come back, the process ends without it")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
