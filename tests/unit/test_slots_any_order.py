"""The pool of slots against a model of the broker, in any order of events.

The broker of the model delivers by credit, in the order of the consumers, and everything is under way for any time in
both directions. When nothing is under way any more, the promises have to hold.
"""

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workers_shim.slot_decisions import Action, Cancel, Consume, Consumer, Get, GiveBack, Lease, Role, Source, Start
from workers_shim.slots import SlotPool

PINNED = Source(Role.PINNED)
MODELS = ("a", "b")
MANY = 2_000
"""Steps within which everything under way has to come to rest: a requeue that comes straight back never does."""


def sources(model: str) -> list[Source]:
    return [Source(Role.RESUME, model), Source(Role.MODEL, model), Source(Role.OWN, model)]


class Message:
    """One request, and what it must not become: lost, or at two places."""

    def __init__(self, source: Source) -> None:
        self.source = source


class BrokerModel:
    """Queues, consumers and two pipes."""

    def __init__(self) -> None:
        self.ready: dict[Source, deque[Message]] = {}
        self.consumers: dict[Consumer, int] = {}
        """Unacked deliveries of each; a cancelled one keeps its own until they are settled."""
        self.live: list[Consumer] = []
        self.unacked_answers = 0
        """Messages that were asked for and are not settled."""
        self.to_broker: deque[tuple[str, Consumer | Get, Message | None]] = deque()
        self.to_worker: deque[tuple[Consumer | Get, Message | None]] = deque()

    def publish(self, message: Message) -> None:
        self.queue(message.source).append(message)

    def queue(self, source: Source) -> deque[Message]:
        return self.ready.setdefault(source, deque())

    def step(self) -> bool:
        """One command, or one delivery."""
        if self.to_broker:
            self._command(*self.to_broker.popleft())
            return True
        return self.deliver()

    def deliver(self) -> bool:
        for consumer in self.live:
            if self.consumers[consumer] < consumer.prefetch and self.queue(consumer.source):
                message = self.queue(consumer.source).popleft()
                self.consumers[consumer] += 1
                self.to_worker.append((consumer, message))
                return True
        # TTL 0: what its worker cannot take at once is in the model's queue at once.
        for source, queue in self.ready.items():
            if source.role is Role.OWN and queue:
                self.queue(Source(Role.MODEL, source.model)).append(queue.popleft())
                return True
        return False

    def _command(self, command: str, origin: Consumer | Get, message: Message | None) -> None:
        if isinstance(origin, Get):
            self._command_about_get(command, origin, message)
            return
        consumer = origin
        match command:
            case "consume":
                self.consumers[consumer] = 0
                self.live.append(consumer)
            case "cancel":
                self.live.remove(consumer)
            case "ack":
                self.consumers[consumer] -= 1
            case "nack":
                assert message is not None
                self.consumers[consumer] -= 1
                self.queue(self._home(consumer.source)).appendleft(message)

    def _command_about_get(self, command: str, get: Get, message: Message | None) -> None:
        if command == "get":
            queue = self.queue(get.source)
            self.unacked_answers += bool(queue)
            self.to_worker.append((get, queue.popleft() if queue else None))
            return
        self.unacked_answers -= 1
        if command == "nack":
            assert message is not None
            self.queue(get.source).appendleft(message)

    @staticmethod
    def _home(source: Source) -> Source:
        return Source(Role.MODEL, source.model) if source.role is Role.OWN else source

    def close(self, unacked: list[tuple[Source, Message]]) -> None:
        for source, message in unacked:
            self.queue(self._home(source)).appendleft(message)
        for origin, answer in self.to_worker:
            if answer is not None:
                self.queue(self._home(origin.source)).appendleft(answer)
        # What was given back, or acked, and had not arrived.
        for command, origin, other in self.to_broker:
            if command == "nack" and other is not None:
                self.queue(self._home(origin.source)).appendleft(other)
        self.unacked_answers = 0
        self.consumers.clear()
        self.live.clear()
        self.to_broker.clear()
        self.to_worker.clear()


class Slots(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.broker = BrokerModel()
        self.slots = 2
        self.pool: SlotPool[Message] = SlotPool(self.slots)
        self.open = False
        self.draining = False
        self.served: set[str] = set()
        self.running: dict[Lease[Message], Consumer | Get | None] = {}
        """Leases with a slot, or unacked, by where they came from; None when the tag is void."""
        self.no_slot: set[Lease[Message]] = set()
        self.pinned: list[tuple[Consumer, Message]] = []
        self.delivering: Consumer | Get | None = None
        self.apply(self.pool.add([PINNED]))

    # --- what intake does

    def apply(self, actions: list[Action[Message]]) -> None:
        for action in actions:
            match action:
                case Consume():
                    assert action.consumer.prefetch > 0, "AMQP takes 0 for no bound"
                    self.broker.to_broker.append(("consume", action.consumer, None))
                case Cancel():
                    self.broker.to_broker.append(("cancel", action.consumer, None))
                case Get():
                    assert action.source.shared
                    self.broker.to_broker.append(("get", action, None))
                case GiveBack():
                    self.broker.to_broker.append(("nack", self._origin(action.delivery), action.delivery))
                case Start():
                    self.running[action.lease] = self._origin(action.lease.delivery)

    def _origin(self, message: Message) -> Consumer | Get:
        for consumer, waiting in self.pinned:
            if waiting is message:
                self.pinned.remove((consumer, waiting))
                return consumer
        assert self.delivering is not None
        return self.delivering

    # --- events

    @rule(
        role=st.sampled_from(list(Role)),
        model=st.sampled_from(MODELS),
        count=st.integers(1, 4),
    )
    def publish(self, role: Role, model: str, count: int) -> None:
        source = PINNED if role is Role.PINNED else Source(role, model)
        for _ in range(count):
            self.broker.publish(Message(source))

    @rule(steps=st.integers(1, 5))
    def the_broker_works(self, steps: int) -> None:
        for _ in range(steps):
            self.broker.step()

    @rule(count=st.integers(1, 3))
    def deliveries_arrive(self, count: int) -> None:
        for _ in range(count):
            self._arrive()

    def _arrive(self) -> bool:
        if not self.broker.to_worker:
            return False
        origin, message = self.broker.to_worker.popleft()
        self.delivering = origin
        if isinstance(origin, Get):
            self.apply(self.pool.got(origin, message))
        else:
            assert message is not None
            actions = self.pool.delivered(origin, message)
            if not actions:
                assert origin.source.role is Role.PINNED, "a delivery was swallowed"
                self.pinned.append((origin, message))
            self.apply(actions)
        self.delivering = None
        return True

    def _pick(self, draw: int, among: list[Lease[Message]]) -> Lease[Message] | None:
        return among[draw % len(among)] if among else None

    @rule(draw=st.integers(0, 100))
    def one_ends(self, draw: int) -> None:
        lease = self._pick(draw, list(self.running))
        if lease is not None:
            self._settle(lease)
            self.no_slot.discard(lease)
            self.apply(self.pool.freed(lease))

    @rule(draw=st.integers(0, 100))
    def one_frees_its_slot_but_cannot_be_acked_yet(self, draw: int) -> None:
        lease = self._pick(draw, [lease for lease in self.running if lease not in self.no_slot])
        if lease is not None:
            self.no_slot.add(lease)
            self.apply(self.pool.freed(lease))

    def _settle(self, lease: Lease[Message]) -> None:
        consumer = self.running.pop(lease)
        self.pool.settled(lease)
        if consumer is not None:
            self.broker.to_broker.append(("ack", consumer, None))

    @precondition(lambda self: not self.open)
    @rule()
    def the_channel_opens(self) -> None:
        self.open = True
        self.apply(self.pool.opened())

    @precondition(lambda self: self.open)
    @rule()
    def the_channel_closes(self) -> None:
        self.open = False
        unacked = [
            (consumer.source, lease.delivery) for lease, consumer in self.running.items() if consumer is not None
        ]
        unacked += [(consumer.source, message) for consumer, message in self.pinned]
        self.pinned.clear()
        self.broker.close(unacked)
        for lease in list(self.running):
            self.running[lease] = None
            if lease in self.no_slot:
                del self.running[lease]
                self.no_slot.discard(lease)
        self.pool.closed()

    @rule(model=st.sampled_from(MODELS))
    def a_model_is_added(self, model: str) -> None:
        self.served.add(model)
        self.apply(self.pool.add(sources(model)))

    @rule(model=st.sampled_from(MODELS))
    def a_model_is_removed(self, model: str) -> None:
        self.served.discard(model)
        self.apply(self.pool.remove(sources(model)))

    @rule()
    def its_queues_are_kept(self) -> None:
        if self.open:
            self.apply(self.pool.keep())

    @precondition(lambda self: not self.draining and len(self.running) > 1)
    @rule()
    def the_worker_drains(self) -> None:
        self.draining = True
        self.apply(self.pool.drain())

    @rule()
    def everything_comes_to_rest(self) -> None:
        for _ in range(MANY):
            if not (self.broker.step() or self._arrive()):
                break
        else:
            pytest.fail("requests go round in circles between broker and worker")
        holding = [lease for lease in self.running if lease not in self.no_slot]
        free = self.slots - len(holding)
        assert self.pool.free == free
        unacked = sum(self.broker.consumers.values()) + self.broker.unacked_answers
        held = [lease for lease, consumer in self.running.items() if consumer is not None]
        assert unacked == len(held) + len(self.pinned), "something is held that was not started"
        if self.pinned:
            assert free == 0
        if self.draining or not self.open:
            assert not self.broker.live
        elif free:
            queues = [PINNED, *(source for model in self.served for source in sources(model))]
            for source in queues:
                assert not self.broker.queue(source), f"{source} waits although {free} slots are free"
            for source in queues:
                credit = [c.prefetch - self.broker.consumers[c] for c in self.broker.live if c.source == source]
                assert len(credit) == 1
                assert credit[0] >= free

    # --- always

    @invariant()
    def no_more_than_the_slots_run(self) -> None:
        assert len([lease for lease in self.running if lease not in self.no_slot]) <= self.slots
        assert 0 <= self.pool.running <= self.slots

    def teardown(self) -> None:
        self.everything_comes_to_rest()


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


class LoadedBroker:
    """Two queues that never run dry, a broker that serves consumers in the order in which they came."""

    def __init__(self, slots: int) -> None:
        self.pool: SlotPool[str] = SlotPool(slots)
        self.live: list[Consumer] = []
        self.started: list[str] = []
        self.given_back = self.consumed = 0
        self.gets: deque[Get] = deque()
        self.leases: deque[Lease[str]] = deque()
        for model in MODELS:
            self.pool.add(sources(model))
        self.apply(self.pool.opened())

    def apply(self, actions: list[Action[str]]) -> None:
        for action in actions:
            match action:
                case Consume():
                    self.live.append(action.consumer)
                    self.consumed += 1
                case Cancel():
                    self.live.remove(action.consumer)
                case Get():
                    self.gets.append(action)
                case Start():
                    self.leases.append(action.lease)
                    self.started.append(action.lease.source.model)
                case GiveBack():
                    self.given_back += 1

    def deliver(self) -> None:
        in_transit = [
            consumer for consumer in self.live if consumer.source.role is Role.MODEL for _ in range(consumer.credit)
        ]
        for consumer in in_transit:
            self.apply(self.pool.delivered(consumer, "request"))
        while self.gets:
            self.apply(self.pool.got(self.gets.popleft(), "request"))

    def finish_one(self) -> None:
        lease = self.leases.popleft()
        self.pool.settled(lease)
        self.apply(self.pool.freed(lease))


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_two_loaded_models_have_their_turns(slots: int) -> None:
    broker = LoadedBroker(slots)
    for _ in range(200):
        broker.deliver()
        broker.finish_one()
    settled = broker.started[2 * slots :]
    assert abs(settled.count("a") - settled.count("b")) <= slots + 1
    # What the first pause had in transit goes back; nothing from then on, and no consumer comes and goes.
    assert broker.given_back <= slots
    assert broker.consumed == len(MODELS) * len(sources("a"))
