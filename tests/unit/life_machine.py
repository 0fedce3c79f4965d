"""One request between the real reply reader and a model of the fleet: what the controller decides is carried out there.

Whoever derives from it says in which order events come. Every one of them passes the witness.
"""

from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from broker_controller.decisions import Action, Broadcast, GiveUp, Place, Publish, Stage, Tell
from broker_controller.errors import ServiceError
from broker_controller.lifecycle import RequestLife
from broker_controller.registry import Registry
from broker_controller.reply_reader import ReplyReader
from broker_controller.streams import GenerationStream
from broker_wire.garbage import GarbageBin
from broker_wire.messages import Batch, ControlMessage, Stop
from tests.unit.lifecycle_witness import Witness
from tests.unit.model_fleet import STREAM, Fleet
from tests.unit.reply_reader_doubles import GatewayDouble, LinksDouble, as_delivered

STEP = 0.5
"""Seconds between two looks at the clocks, while all is well."""


class LifeMachine(RuleBasedStateMachine):
    fleet: Fleet
    life: RequestLife
    stream: GenerationStream
    witness: Witness

    def __init__(self) -> None:
        super().__init__()
        self.done_for = ""
        self.error: ServiceError | None = None
        self.complete = False
        gateway: Any = GatewayDouble(self)
        links: Any = LinksDouble(self)
        self.garbage = GarbageBin()
        self.reader = ReplyReader(
            gateway, links, Registry(), self.garbage, on_answer=print, clock=lambda: self.fleet.now
        )

    @property
    def over(self) -> bool:
        return self.life.stage is Stage.OVER

    @property
    def watched(self) -> float:
        return self.fleet.watched

    # --- what the controller decides, and hears

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Publish():
                    self.witness.on_published(action.attempt)
                    self.fleet.publish(action)
                case Tell(instance, message):
                    self.tell(instance, message)
                case Broadcast(message):
                    self.fleet.broadcast(message)
                case GiveUp(error):
                    assert self.error is None
                    self.error = error
        if self.over and self.life.instance:
            self.done_for = self.life.instance

    def tell(self, instance: str, message: ControlMessage) -> None:
        self.witness.on_told(instance, message)
        self.fleet.tell(instance, message)

    def hear(self) -> None:
        instance, frame = self.fleet.replies.popleft()
        with self.witness.event(instance, frame):
            self.reader._on_delivery(as_delivered(Batch(instance, [frame])))
        for item in self.stream.take():
            if isinstance(item, str):
                self.witness.on_delivered(item)

    def hear_news(self) -> None:
        kind, instance = self.fleet.news.popleft()
        with self.witness.event(instance, kind):
            if kind.startswith("announce"):
                made_queue, requeued = kind == "announce with a new queue", kind == "announce after a requeue"
                self.carry_out(self.life.on_announce(instance, made_queue=made_queue, requeued=requeued))
            else:
                self.carry_out(self.life.on_obituary(instance, self.watched, in_order=kind == "goodbye"))

    def hear_outcome(self) -> None:
        attempt, is_return = self.fleet.outcomes.popleft()
        with self.witness.event():
            self.carry_out(self.life.on_returned(attempt) if is_return else self.life.on_nacked(attempt))

    def pass_time(self, seconds: float, *, has_worker: bool = True, is_queue_empty: bool = False) -> None:
        fleet = self.fleet
        fleet.pass_time(seconds)
        with self.witness.event(what="sweep"):
            self.carry_out(self.life.sweep(fleet.now, fleet.watched, has_worker, is_queue_empty=is_queue_empty))
        gap_since = self.stream.gap_since
        if gap_since is not None and fleet.watched - gap_since > 1.0 and self.life.stage is Stage.RUNNING:
            self.stream.gap_since = fleet.watched
            self.carry_out([self.life.missing()])
        if self.over and fleet.sends and self.done_for:
            fleet.tell(self.done_for, Stop("c", STREAM, self.life.attempt))
            self.done_for = ""
        fleet.look_at_the_clocks()

    def everything_moves(self, tokens: int = 2) -> None:
        """One healthy half second."""
        fleet = self.fleet
        while fleet.replies or fleet.news or fleet.outcomes or any(worker.orders for worker in fleet.workers):
            while fleet.replies:
                self.hear()
            while fleet.news:
                self.hear_news()
            while fleet.outcomes:
                self.hear_outcome()
            for worker in fleet.workers:
                while worker.orders:
                    fleet.obey(worker)
        for worker in fleet.workers:
            for place, copies in fleet.queues.items():
                if copies and (worker.number == 0 or place in (Place.MODEL, Place.RESUME)):
                    fleet.take(worker, copies.popleft())
            fleet.generate(worker, tokens)
        self.pass_time(STEP)
