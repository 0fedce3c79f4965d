"""What is said to workers: gathered where it concerns many streams, kept where it cannot be sent."""

import asyncio
from collections.abc import Callable
from typing import Any

from broker_controller.orders import Orders
from broker_wire.amqp.channel import Outcome
from broker_wire.messages import ControlMessage, Done, Resend, Stop
from broker_wire.topology import Topology


class LinksDouble:
    """Keeps what is sent, and how it is told what came of it."""

    def __init__(self) -> None:
        self.topology = Topology()
        self.up = True
        self.sent: list[tuple[str, ControlMessage]] = []
        self.outcomes: list[Callable[[Outcome], None]] = []

    def send_control(
        self, key: str, message: ControlMessage, on_outcome: Callable[[Outcome], None] | None = None
    ) -> None:
        self.sent.append((key.removeprefix("instance."), message))
        if on_outcome is not None:
            self.outcomes.append(on_outcome)


def new_orders() -> tuple[Orders, LinksDouble]:
    links: Any = LinksDouble()
    return Orders("c", links), links


async def test_all_that_a_worker_is_to_send_again_is_one_message_a_tick() -> None:
    orders, links = new_orders()
    for stream in (1, 2, 3):
        orders.tell("i1", Resend("c", ((stream, 1, 0),)))
    orders.tell("i2", Resend("c", ((4, 1, 0),)))
    assert links.sent == []
    await asyncio.sleep(0)
    assert links.sent == [
        ("i1", Resend("c", ((1, 1, 0), (2, 1, 0), (3, 1, 0)))),
        ("i2", Resend("c", ((4, 1, 0),))),
    ]
    orders.tell("i1", Resend("c", ((1, 1, 5),)))
    await asyncio.sleep(0)
    assert links.sent[2:] == [("i1", Resend("c", ((1, 1, 5),)))]


def test_what_is_over_is_kept_until_there_is_a_connection_and_said_once() -> None:
    orders, links = new_orders()
    links.up = False
    orders.note_over("i1", 1)
    orders.send_done()
    assert links.sent == []
    links.up = True
    orders.note_over("i1", 2)
    orders.send_done()
    orders.send_done()
    assert links.sent == [("i1", Done("c", (1, 2)))]


def test_who_could_not_be_told_is_unreachable_once_unless_it_has_announced_itself_since() -> None:
    orders, links = new_orders()
    for instance in ("i1", "i1", "i2", "i3"):
        orders.tell(instance, Stop("c", 7, 1))
    for on_outcome in links.outcomes[:3]:
        on_outcome(Outcome.RETURNED)
    links.outcomes[3](Outcome.CONFIRMED)
    orders.on_announce("i2")
    assert orders.take_unreachable() == {"i1"}
    assert orders.take_unreachable() == set()
