"""The reply queue of this controller process: every frame to the request that it belongs to.

The hot path of the data plane: a batch is decoded once, its frames go straight to the streams. What belongs to no
request is answered with `stop`, so that no worker works for nobody; what is no message is counted and dropped.
"""

import logging
import time
from collections.abc import Callable, Sequence

from broker_controller.decisions import Stage, Tell
from broker_controller.gateway import Gateway
from broker_controller.links import Links
from broker_controller.registry import Registry
from broker_controller.streams import GenerationStream
from broker_wire import codec
from broker_wire.amqp.channel import Delivery
from broker_wire.amqp.connection import Session
from broker_wire.errors import GarbageError
from broker_wire.garbage import GarbageBin
from broker_wire.messages import (
    Answered,
    Ask,
    Batch,
    End,
    Failed,
    Frame,
    GivenBack,
    Gone,
    Payloads,
    Piece,
    Progress,
    Started,
    Stop,
    Texts,
)

_log = logging.getLogger(__name__)

_Running = Started | Ask | Texts | Payloads | Piece | End | Failed | Progress
"""Frames of whoever runs a request, or is about to."""


class ReplyReader:
    """Consumes the replies. One a process; `attach` is called on every connect, with a fresh queue each time."""

    def __init__(
        self,
        gateway: Gateway,
        links: Links,
        registry: Registry,
        garbage: GarbageBin,
        *,
        on_answer: Callable[[Answered], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_answer` gets what answers a question; `clock`: seconds, the one of the requests' deadlines."""
        self._on_answer = on_answer
        self._clock = clock
        self._gateway = gateway
        self._inflight = gateway.inflight
        self._links = links
        self._registry = registry
        self._garbage = garbage
        links.on_consumer_up.append(self.attach)

    async def attach(self, session: Session) -> None:
        """Declare a reply queue and consume it."""
        queue = self._links.topology.reply_queue(self._gateway.controller_id)
        await self._links.listen(session, queue, self._on_delivery)

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            batch = codec.decode_reply(delivery.body, delivery.content_type)
        except GarbageError as error:
            self._garbage.drop("replies", error)
            return
        streams = self._gateway.streams
        watched = self._gateway.watched()
        for frame in batch.frames:
            stream = streams.get(frame.stream)
            if stream is None:
                self._on_unknown(frame, batch)
            elif type(frame) is Texts or type(frame) is Payloads:
                self._on_run(stream, frame, batch.instance, watched)
            else:
                self._on_other(stream, frame, batch.instance, watched)

    def _on_run(self, stream: GenerationStream, frame: Texts | Payloads, instance: str, watched: float) -> None:
        life = stream.life
        if life.stale(frame.attempt):
            self._fence(frame, instance)
            return
        if life.stage is Stage.WAITING:
            self._start_without_word(stream, frame, instance, watched)
        life.note_progress(watched)
        answer = life.answer
        before = answer.size
        chunks: Sequence[str | Payloads] | None
        chunks = answer.accept_texts(frame) if isinstance(frame, Texts) else answer.accept_payloads(frame)
        if chunks is None:
            self._on_gap(stream, watched)
        elif chunks:
            size = answer.size - before
            self._inflight.add(size)
            stream.feed(chunks, size)
            stream.gap_since = None

    def _on_other(self, stream: GenerationStream, frame: Frame, instance: str, watched: float) -> None:
        life = stream.life
        match frame:
            case Started():
                self._registry.note_started(frame.worker, (life.controller, frame.stream))
                self._gateway.on_started(stream, frame, self._clock(), watched)
            case Ask():
                self._gateway.carry_out(stream, life.on_ask(frame, self._clock(), watched))
                if life.moves:
                    stream.notice()
            case Gone(_, attempt):
                self._gateway.carry_out(stream, life.on_gone(attempt, instance))
            case GivenBack(_, attempt):
                self._gateway.carry_out(stream, life.on_given_back(attempt, instance))
            case Progress(_, attempt):
                if life.stale(attempt):
                    self._fence(frame, instance)
                elif life.stage is Stage.RUNNING:
                    life.note_progress(watched)
            case Piece() | End() | Failed():
                self._on_numbered(stream, frame, instance, watched)

    def _on_numbered(
        self, stream: GenerationStream, frame: Piece | End | Failed, instance: str, watched: float
    ) -> None:
        life = stream.life
        if life.stale(frame.attempt):
            self._fence(frame, instance)
            return
        if life.stage is Stage.WAITING:
            self._start_without_word(stream, frame, instance, watched)
        life.note_progress(watched)
        before = life.answer.size
        accepted = life.answer.accept(frame)
        if accepted is None:
            self._on_gap(stream, watched)
        elif accepted:
            stream.gap_since = None
            match frame:
                case Piece():
                    # The assembler keeps no logprobs; until the client reads them, they are here.
                    size = life.answer.size - before + len(frame.logprobs or b"")
                    self._inflight.add(size)
                    stream.feed((frame,), size)
                case End():
                    stream.end(frame)
                    self._gateway.complete(stream)
                case Failed():
                    self._gateway.carry_out(stream, life.on_failed(frame))

    def _start_without_word(
        self, stream: GenerationStream, frame: Texts | Payloads | Piece | End | Failed, instance: str, watched: float
    ) -> None:
        """A frame of the counting attempt, although nobody said that it has started: that was lost on the way."""
        worker = next((record.name for record in self._registry.workers() if record.instance == instance), instance)
        started = Started(frame.stream, frame.attempt, worker, instance)
        self._gateway.on_started(stream, started, self._clock(), watched)

    def _on_gap(self, stream: GenerationStream, watched: float) -> None:
        """Ask for what is missing, once; the sweep asks again while it does not come."""
        if stream.gap_since is None:
            stream.gap_since = watched
            life = stream.life
            _log.warning("gap in a stream request=%s next=%d", life.request_id, life.answer.next_seq)
            self._gateway.ask_again(stream)

    def _on_unknown(self, frame: Frame, batch: Batch) -> None:
        """An answer to a question, or a frame of a request that is over, or never was here. Whoever runs it stops."""
        if type(frame) is Answered:
            self._on_answer(frame)
        elif isinstance(frame, Started | Ask | Texts | Payloads | Piece | Progress):
            self._fence(frame, batch.instance)
            # What a worker sent before it heard that the client had left is nothing to complain of.
            if type(frame) in (Texts, Payloads, Piece) and not self._gateway.was_here(frame.stream):
                self._garbage.drop("replies", "a frame of an unknown stream")

    def _fence(self, frame: _Running, instance: str) -> None:
        tell = Tell(instance, Stop(self._gateway.controller_id, frame.stream, frame.attempt))
        self._links.send_control(self._links.topology.instance_key(tell.instance), tell.message)
