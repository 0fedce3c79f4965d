"""Declares exchanges and queues the way that several versions and sides can share them.

Whoever comes first creates; what is there already is used, even with other arguments, and an operator is told once.
Each look is taken on a throw-away channel, since the broker closes a channel on every "no".
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from msgspec import structs

from broker_wire.amqp.channel import Channel
from broker_wire.amqp.delivery import QueueState
from broker_wire.amqp.session import Session
from broker_wire.errors import ChannelClosedError, QueueDownError
from broker_wire.topology import Queue

_log = logging.getLogger(__name__)

ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED = 403, 404, 406


async def declare_topology(session: Session, exchanges: Mapping[str, str]) -> None:
    """Every exchange, by name and type. Raises: BrokerError."""
    declarer = _Declarer(session)
    try:
        for name, kind in exchanges.items():
            await declarer.exchange(name, kind)
    finally:
        await declarer.close()


async def declare_queues(session: Session, queues: Sequence[Queue]) -> set[str]:
    """Every queue and its binding.

    Returns: the names that had to be created (of a server-named queue, the server's name).
    Raises: BrokerError; ChannelClosedError with code 405 when another connection holds an exclusive queue;
        QueueDownError.
    """
    declarer = _Declarer(session)
    try:
        created = set()
        for queue in queues:
            state, is_new = await declarer.queue(queue)
            if is_new:
                created.add(state.name)
            await declarer.bind(state.name, queue)
        return created
    finally:
        await declarer.close()


async def queue_ready_counts(
    channel_factory: Callable[[], Awaitable[Channel]], names: Iterable[str]
) -> dict[str, int | None]:
    """Messages ready in each queue, None where there is no such queue. For polling: `session.channel` is a factory.

    Raises: BrokerError.
    """
    counts: dict[str, int | None] = {}
    channel = await channel_factory()
    try:
        for name in names:
            try:
                counts[name] = (await channel.declare_queue(_named(name), passive=True)).ready
            except ChannelClosedError as error:
                if error.code != NOT_FOUND:
                    raise
                counts[name] = None
                channel = await channel_factory()
    finally:
        await channel.close()
    return counts


class _Declarer:
    """Declares on a channel of its own, and takes another when the broker has closed it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._channel: Channel | None = None

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def exchange(self, name: str, kind: str) -> None:
        try:
            await (await self._open()).declare_exchange(name, kind)
        except ChannelClosedError as error:
            self._tolerate(error, await self._has_exchange(name, kind), f"exchange {name}")

    async def _has_exchange(self, name: str, kind: str) -> bool:
        try:
            await (await self._open()).declare_exchange(name, kind, passive=True)
        except ChannelClosedError as error:
            if error.code != NOT_FOUND:
                raise
            return False
        return True

    async def queue(self, queue: Queue) -> tuple[QueueState, bool]:
        queue = _as_understood(queue, self._session.server_version)
        found = await self._find(queue) if queue.name else None
        try:
            state = await (await self._open()).declare_queue(queue)
        except ChannelClosedError as error:
            if error.code == NOT_FOUND:
                # To a declare that creates, the broker says so only of a queue whose node is down.
                raise QueueDownError(error.code, error.text) from error
            # Between our look and our declare somebody else may have created it with other arguments.
            found = found or (await self._find(queue) if error.code == PRECONDITION_FAILED else None)
            self._tolerate(error, found is not None, f"queue {queue.name}")
            assert found is not None  # noqa: S101, _tolerate has raised otherwise
            return found, False
        return state, found is None

    async def bind(self, name: str, queue: Queue) -> None:
        try:
            await (await self._open()).bind(name, queue.exchange, queue.routing_key)
        except ChannelClosedError as error:
            # Who may not bind relies on a topology that was made beforehand.
            self._tolerate(error, error.code == ACCESS_REFUSED, f"binding of queue {name}")

    async def _find(self, queue: Queue) -> QueueState | None:
        try:
            return await (await self._open()).declare_queue(queue, passive=True)
        except ChannelClosedError as error:
            if error.code != NOT_FOUND:
                raise
            return None

    async def _open(self) -> Channel:
        if self._channel is None or not self._channel.open:
            self._channel = await self._session.channel()
        return self._channel

    def _tolerate(self, error: ChannelClosedError, exists: bool, what: str) -> None:
        if not exists or error.code not in {ACCESS_REFUSED, PRECONDITION_FAILED}:
            raise error
        if what not in self._session.warned:
            self._session.warned.add(what)
            _log.warning("what is there is used as it is what=%r reason=%s", what, error)


def _as_understood(queue: Queue, server_version: tuple[int, ...]) -> Queue:
    # Only from 4.0 on a delivery limit of -1 means none. Seen with 3.10: it takes it as a number, so a quorum queue
    # drops every message at its first return; there the default is no limit.
    if server_version < (4,) and queue.arguments.get("x-delivery-limit") == -1:
        kept = {name: value for name, value in queue.arguments.items() if name != "x-delivery-limit"}
        return structs.replace(queue, arguments=kept)
    return queue


def _named(name: str) -> Queue:
    return Queue(name, "", "", {})
