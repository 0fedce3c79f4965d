"""Which HTTP workers this controller may bridge: of several controllers one holds an exclusive queue for each.

The queue lives as long as the controller's consume connection, so when a controller dies, its claims are free at once.
Used by `bridge`; it knows nothing of what is bridged.
"""

import contextlib
from collections.abc import Callable
from enum import Enum, auto

from broker_controller.links import Links
from broker_wire.amqp import Session
from broker_wire.errors import BrokerError, ChannelClosedError

RESOURCE_LOCKED = 405
"""AMQP 0-9-1: the queue is another connection's, exclusively."""


class Claim(Enum):
    """What came of a claim."""

    OURS = auto()
    ANOTHERS = auto()
    UNKNOWN = auto()
    """The broker cannot be asked now."""


class Claims:
    """The claims of one controller process."""

    def __init__(self, links: Links, on_reconnected: Callable[[], None]) -> None:
        """`on_reconnected`: every claim has to be made anew."""
        self._topology = links.topology
        self._on_reconnected = on_reconnected
        self._session: Session | None = None
        self._held: dict[str, Session] = {}
        links.on_consumer_up.append(self._attach)

    async def claim(self, url: str) -> Claim:
        """Claim an HTTP worker, or make sure of it."""
        session = self._session
        if session is None:
            return Claim.UNKNOWN
        if self._held.get(url) is session:
            return Claim.OURS
        try:
            channel = await session.channel()
            await channel.declare_queue(self._topology.bridge_queue(url))
            self._held[url] = session
            await channel.close()
        except ChannelClosedError as error:
            return Claim.ANOTHERS if error.code == RESOURCE_LOCKED else Claim.UNKNOWN
        except (BrokerError, TimeoutError):
            return Claim.UNKNOWN
        return Claim.OURS

    async def release(self, url: str) -> None:
        """Let another controller have it. Without a connection it is free already."""
        session = self._held.pop(url, None)
        if session is None or session is not self._session:
            return
        with contextlib.suppress(BrokerError, TimeoutError):
            channel = await session.channel()
            await channel.delete_queue(self._topology.bridge_queue(url).name)
            await channel.close()

    async def _attach(self, session: Session) -> None:
        self._session = session
        self._held.clear()
        self._on_reconnected()
