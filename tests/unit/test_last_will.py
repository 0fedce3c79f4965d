"""A worker that said goodbye is not reported dead, whatever was on its way; one that dies is, whatever else came."""

from typing import Any

from broker_wire import codec
from broker_wire.amqp import Delivery
from broker_wire.garbage import GarbageBin
from broker_wire.messages import Obituary
from broker_wire.topology import Topology
from workers_shim.last_will import LastWill


class Settled:
    """Notes which deliveries were acked, in place of their channel."""

    def __init__(self) -> None:
        self.tags: list[int] = []

    def ack(self, tag: int) -> None:
        self.tags.append(tag)


OBITUARY = codec.encode(Obituary("w", "i"))


def delivery(channel: Any, tag: int, body: bytes = OBITUARY) -> Delivery:
    return Delivery(channel, tag, "1.1", body, False, "control", "will", *([None] * 6))


def test_a_renewed_obituary_that_comes_after_the_goodbye_is_let_go_too() -> None:
    settled = Settled()
    will = LastWill(Topology("p"), "w", "i", GarbageBin(), lambda: None)
    will._on_delivery(delivery(settled, 1))
    will.release()
    will._on_delivery(delivery(settled, 2))
    assert settled.tags == [1, 2]
    assert not will.made


def test_garbage_does_not_take_the_place_of_the_obituary() -> None:
    settled, garbage = Settled(), GarbageBin()
    will = LastWill(Topology("p"), "w", "i", garbage, lambda: None)
    will._on_delivery(delivery(settled, 1))
    will._on_delivery(delivery(settled, 2, b"noise"))
    assert settled.tags == [2]
    assert garbage.counts == {"will": 1}
    assert will.made


class Publishing:
    """Counts what is published, in place of a channel."""

    def __init__(self) -> None:
        self.count = 0

    def publish(self, *_: object, **__: object) -> None:
        self.count += 1


def test_a_will_that_waits_for_the_publishing_channel_is_made_when_that_comes() -> None:
    will = LastWill(Topology("p"), "w", "i", GarbageBin(), lambda: None)
    will._waiting = True
    publishing: Any = Publishing()
    will.attach(publishing)
    assert publishing.count == 1
    will._under_way = False
    will._on_delivery(delivery(Settled(), 1))
    will.detach()
    will.attach(publishing)
    assert publishing.count == 1, "one that is held needs no second one"
