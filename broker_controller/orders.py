"""What a controller says to single workers about their streams, and who could not be told. Used by `gateway`.

What concerns many streams of a worker at a time is gathered: a reconnect asks for the rest of all of them, and most of
what runs is over at some time. Knows no request's life.
"""

import asyncio
from collections import defaultdict
from functools import partial

from broker_controller.links import Links
from broker_wire.amqp.channel import Outcome
from broker_wire.messages import ControlMessage, Done, Resend


class Orders:
    """Of one controller process."""

    def __init__(self, controller_id: str, links: Links) -> None:
        self._controller_id = controller_id
        self._links = links
        self._over: defaultdict[str, list[int]] = defaultdict(list)
        self._lacking: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
        self._unreachable: set[str] = set()

    def tell(self, instance: str, message: ControlMessage) -> None:
        """Say this to the worker's process `instance`. What it is to send again, with the rest of this tick."""
        match message:
            case Resend(streams=lacking):
                self._ask_again(instance, lacking)
            case _:
                self._send(instance, message)

    def note_over(self, instance: str, stream: int) -> None:
        """The worker need not keep what it sent of the stream: `send_done` says so."""
        self._over[instance].append(stream)

    def send_done(self) -> None:
        """One message to each worker for all that is over since the last time."""
        if not self._links.up:
            # It would be dropped, and the workers would keep what is over for their time of grace.
            return
        over, self._over = self._over, defaultdict(list)
        for instance, numbers in over.items():
            message = Done(self._controller_id, tuple(numbers))
            self._links.send_control(self._links.topology.instance_key(instance), message)

    def take_unreachable(self) -> set[str]:
        """Whose queue was not there, since the last time: once for all that comes back of a thousand orders."""
        unreachable, self._unreachable = self._unreachable, set()
        return unreachable

    def on_announce(self, instance: str) -> None:
        """It is there after all."""
        self._unreachable.discard(instance)

    def _ask_again(self, instance: str, lacking: tuple[tuple[int, int, int], ...]) -> None:
        if not self._lacking:
            asyncio.get_running_loop().call_soon(self._send_lacking)
        self._lacking[instance].extend(lacking)

    def _send_lacking(self) -> None:
        lacking, self._lacking = self._lacking, defaultdict(list)
        for instance, streams in lacking.items():
            self._send(instance, Resend(self._controller_id, tuple(streams)))

    def _send(self, instance: str, message: ControlMessage) -> None:
        key = self._links.topology.instance_key(instance)
        self._links.send_control(key, message, partial(self._on_told, instance))

    def _on_told(self, instance: str, outcome: Outcome) -> None:
        if outcome is Outcome.RETURNED:
            self._unreachable.add(instance)
