"""An answer of the engine `echo` at its pace, and with the failures that its client asks for.

What a client can do here is what clients do anyway: hold a slot until its deadline, and have its own request fail. To
end the process is another matter, and off unless whoever started the worker allows it.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable

from workers_shim import Chunk, Lost, RequestError, Unavailable
from workers_shim.engines.echo_wishes import FIELD, Behaviour, Error

_log = logging.getLogger(__name__)


async def perform(
    items: Iterable[str | Chunk], behaviour: Behaviour, interval: float | None
) -> AsyncIterator[str | Chunk]:
    """
    Args:
        interval: seconds between two chunks, None for full speed.

    Raises: what `behaviour` says.
    """
    if behaviour.delay:
        await asyncio.sleep(behaviour.delay)
    began = time.monotonic()
    for sent, item in enumerate(items):
        if sent == behaviour.fail_after:
            raise _failure(behaviour)
        if sent == behaviour.die_after:
            _die()
        if interval is not None:
            # By the schedule, not by the last chunk: delays do not add up.
            await asyncio.sleep(began + sent * interval - time.monotonic())
        yield item
    if behaviour.fail_after is not None:
        raise _failure(behaviour)
    if behaviour.die_after is not None:
        _die()


def interval_of(behaviour: Behaviour, interval: float | None) -> float | None:
    """The slower pace of the two, as seconds a chunk: the worker's is a bound."""
    if behaviour.tokens_per_second is None:
        return interval
    return max(interval or 0.0, 1.0 / behaviour.tokens_per_second)


def check_allowed(behaviour: Behaviour, *, may_die: bool) -> None:
    """Raises: RequestError."""
    if behaviour.die_after is not None and not may_die:
        raise RequestError(f"'{FIELD}.die_after' is not for this worker: it was not started with --allow-kill")


def _failure(behaviour: Behaviour) -> Exception:
    sentence = f"'{FIELD}' asks for this failure after {behaviour.fail_after} chunks"
    match behaviour.error:
        case Error.REQUEST:
            return RequestError(sentence)
        case Error.ENGINE:
            return RuntimeError(sentence)
        case Error.UNAVAILABLE:
            return Unavailable(sentence)
        case Error.LOST:
            return Lost(sentence)


def _die() -> None:
    _log.error("a client asks this worker to die, as --allow-kill lets it")
    logging.shutdown()
    os.kill(os.getpid(), signal.SIGKILL)
