"""One connection while it lasts: its channels. `Connection` makes a new one after every reconnect."""

from collections.abc import Callable

from broker_wire.amqp.channel import Channel
from broker_wire.amqp.link import Link
from broker_wire.errors import BrokerError, ChannelClosedError, NotConnectedError


def _ignore(_: object) -> None: ...


class Session:
    """What `on_connected` gets. After the loss of the connection it is dead; the next one is another object."""

    def __init__(
        self,
        link: Link,
        warned: set[str],
        *,
        on_blocked: Callable[[bool], None] = _ignore,
        on_ended: Callable[[BrokerError], None] = _ignore,
    ) -> None:
        self.warned = warned
        """What an operator was told once already; it outlives the session."""
        self._link = link
        self._on_blocked = on_blocked
        self._on_ended = on_ended
        self._channels: dict[int, Channel] = {}
        link.on_ended = self._end
        link.on_drained = self._wake_writers
        link.on_blocked = self._block

    @property
    def server_version(self) -> tuple[int, ...]:
        """Of the broker's node: (4, 0, 5)."""
        return self._link.server_version

    @property
    def blocked(self) -> bool:
        """Whether the broker has stopped reading from this connection (a memory or disk alarm)."""
        return self._link.blocked

    async def channel(
        self, *, confirms: bool = False, on_closed: Callable[[ChannelClosedError], None] = _ignore
    ) -> Channel:
        """Open a channel.

        Args:
            confirms: every publish gets its outcome.
            on_closed: called once when it closes otherwise than by `close()`, the loss of the connection included
                (then with code 0).

        Raises: BrokerError.
        """
        if self._link.ended.done():
            raise NotConnectedError(str(self._link.ended.result()))
        number = self._free_number()
        channel = Channel(self._link, number, confirms=confirms, on_closed=on_closed)
        self._channels[number] = channel
        self._link.receivers[number] = channel
        try:
            await channel.start()
        except BaseException:
            channel.abandon("opening was given up")
            raise
        return channel

    async def close(self, reason: str) -> None:
        """Close the connection in order, within 2 s; a running `Connection` then makes a new one."""
        await self._link.finish(reason)

    def drop(self, reason: str) -> None:
        """Give the connection up at once; a running `Connection` makes a new one. For callbacks, which cannot wait."""
        self._link.abort(NotConnectedError(reason))

    def _free_number(self) -> int:
        receivers = self._link.receivers
        for number in list(self._channels):
            if number not in receivers:
                del self._channels[number]
        for number in range(1, self._link.channel_max + 1):
            if number not in receivers:
                return number
        raise NotConnectedError(f"all {self._link.channel_max} channels of the connection are in use")

    def _end(self, error: BrokerError) -> None:
        # First of all: the callbacks of the channels may look whether there is a connection.
        self._on_ended(error)
        why = error if isinstance(error, NotConnectedError) else NotConnectedError(str(error))
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.shut(ChannelClosedError(0, str(why)), why=why)
        self._link.receivers.clear()

    def _block(self, blocked: bool) -> None:
        self._on_blocked(blocked)
        self._wake_writers()

    def _wake_writers(self) -> None:
        for channel in list(self._channels.values()):
            channel.wake_writers()
