"""What the real reply reader stands between in the test of any order of events: a gateway, links, and one delivery.

The machine of that test carries out what the request's life decides, and takes what is told to a worker on its way.
"""

from typing import Any, Protocol

from broker_controller.decisions import Action
from broker_controller.streams import GenerationStream
from broker_wire import codec
from broker_wire.amqp import Delivery
from broker_wire.messages import Batch, ControlMessage, Started
from broker_wire.topology import Topology


class Machine(Protocol):
    """What the doubles need of it."""

    stream: GenerationStream
    complete: bool
    done_for: str

    @property
    def watched(self) -> float: ...

    @property
    def over(self) -> bool: ...

    def carry_out(self, actions: list[Action]) -> None: ...

    def tell(self, instance: str, message: ControlMessage) -> None: ...


def as_delivered(batch: Batch) -> Delivery:
    channel: Any = None
    return Delivery(
        channel=channel,
        tag=0,
        consumer_tag="",
        body=codec.encode(batch),
        redelivered=False,
        exchange="replies",
        routing_key="c",
        type=codec.type_of(batch),
        content_type=codec.CONTENT_TYPE,
        reply_to=None,
        correlation_id=None,
        message_id=None,
        headers=None,
    )


class InflightDouble:
    """Bytes are only added where there are any."""

    def add(self, size: int) -> None:
        assert size > 0


class GatewayDouble:
    """The gateway's place: the real reply reader has it carry out what the request's life decides."""

    controller_id = "c"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.inflight = InflightDouble()

    @property
    def streams(self) -> dict[int, GenerationStream]:
        return {} if self._machine.over else {self._machine.stream.life.stream: self._machine.stream}

    def watched(self) -> float:
        return self._machine.watched

    def carry_out(self, stream: GenerationStream, actions: list[Action]) -> None:
        assert stream is self._machine.stream
        self._machine.carry_out(actions)

    def on_started(self, stream: GenerationStream, frame: Started, now: float, watched: float) -> None:
        self.carry_out(stream, stream.life.on_started(frame, now, watched))

    def ask_again(self, stream: GenerationStream) -> None:
        self.carry_out(stream, [stream.life.missing()])

    def complete(self, stream: GenerationStream) -> None:
        self.carry_out(stream, stream.life.finish())
        self._machine.complete = True
        self._machine.done_for = stream.life.instance

    def was_here(self, number: int) -> bool:
        return number == self._machine.stream.life.stream


class LinksDouble:
    """The links' place: what is told to one worker is on its way there."""

    def __init__(self, machine: Machine) -> None:
        self.topology = Topology()
        self.on_consumer_up: list[object] = []
        self._machine = machine

    def send_control(self, key: str, message: ControlMessage) -> None:
        self._machine.tell(key.removeprefix("instance."), message)
