"""Before a worker of `openai` begins: one look at its server, or waiting for it. Used by the command line."""

import asyncio
import logging
import time

from workers_shim.engines.http_client import Address, HttpClient
from workers_shim.engines.openai_models import DownError, KeyRefusedError, SlowError, Survey, Surveyor

_log = logging.getLogger(__name__)

RETRY_INTERVAL = 1.0
"""Seconds between two tries."""
LOG_INTERVAL = 30.0
"""Seconds between two log lines that say that the server is still waited for."""


def look_once(address: Address, secret: str | None) -> Survey:
    """What the server has. Raises: DownError, SlowError."""
    return asyncio.run(_look(address, secret))


def wait_for_server(address: Address, secret: str | None) -> None:
    """Until the server is well and has a model, or no list of them; however long that takes.

    Raises: KeyRefusedError.
    """
    asyncio.run(_wait(address, secret))


async def _wait(address: Address, secret: str | None) -> None:
    log_at = 0.0
    while True:
        try:
            survey = await _look(address, secret)
            if survey.models != ():
                return
            reason = "it lists no model"
        except KeyRefusedError:
            raise
        except (DownError, SlowError) as error:
            reason = str(error)
        now = time.monotonic()
        if now >= log_at:
            log_at = now + LOG_INTERVAL
            _log.warning("waiting for the server url=%s reason=%s", address.url, reason)
        await asyncio.sleep(RETRY_INTERVAL)


async def _look(address: Address, secret: str | None) -> Survey:
    client = HttpClient(address, secret=secret)
    try:
        return await Surveyor(client).look()
    finally:
        client.close()
