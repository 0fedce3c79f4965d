"""What a frame of the reply queue counts, for its reader's bound and for the one over all requests."""

from types import SimpleNamespace
from typing import Any

from broker_controller.inflight_bytes import InflightBytes
from broker_controller.reply_reader import ReplyReader
from broker_controller.streams import HIGH_WATER
from broker_wire.garbage import GarbageBin
from broker_wire.messages import Batch, Piece
from broker_wire.topology import Topology
from tests.unit.reply_reader_doubles import as_delivered
from tests.unit.test_inflight_bytes import new_stream


def test_logprobs_that_a_client_does_not_read_hold_its_engine_and_count() -> None:
    stream, inflight = new_stream(), InflightBytes(1)
    gateway: Any = SimpleNamespace(
        controller_id="c",
        inflight=inflight,
        streams={7: stream},
        watched=lambda: 0.0,
        carry_out=lambda *_: None,
        on_started=lambda *_: None,
    )
    links: Any = SimpleNamespace(topology=Topology(), on_consumer_up=[])
    registry: Any = SimpleNamespace(workers=list)
    reader = ReplyReader(gateway, links, registry, GarbageBin(), on_answer=print)
    piece = Piece(7, 1, 0, "a", logprobs=b"[%b]" % (b"1" * HIGH_WATER))
    reader._on_delivery(as_delivered(Batch("i", [piece])))
    assert stream.paused
    assert inflight.total == HIGH_WATER + 3
    assert stream.life.answer.size == 1
