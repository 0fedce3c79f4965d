"""The pool of slots, by examples."""

from workers_shim.slot_decisions import Action, Cancel, Consume, Consumer, Get, GiveBack, Lease, Role, Source, Start
from workers_shim.slots import SlotPool

PINNED = Source(Role.PINNED)


def sources(model: str) -> list[Source]:
    return [Source(Role.RESUME, model), Source(Role.MODEL, model), Source(Role.OWN, model)]


class Worker:
    """A pool, and the consumers that it has asked for."""

    def __init__(self, slots: int, *models: str) -> None:
        self.pool: SlotPool[str] = SlotPool(slots)
        self.live: dict[Source, Consumer] = {}
        self.apply(self.pool.add([PINNED]))
        for model in models:
            self.apply(self.pool.add(sources(model)))
        self.opening = self.apply(self.pool.opened())

    def apply(self, actions: list[Action[str]]) -> list[Action[str]]:
        for action in actions:
            match action:
                case Consume():
                    self.live[action.consumer.source] = action.consumer
                case Cancel() if self.live.get(action.consumer.source) is action.consumer:
                    del self.live[action.consumer.source]
        return actions

    def delivered(self, role: Role, model: str, delivery: str) -> list[Action[str]]:
        return self.apply(self.pool.delivered(self.live[Source(role, model)], delivery))

    def start(self, role: Role, model: str, delivery: str) -> Lease[str]:
        (action,) = self.delivered(role, model, delivery)
        assert isinstance(action, Start)
        return action.lease

    def finish(self, lease: Lease[str]) -> list[Action[str]]:
        self.pool.settled(lease)
        return self.apply(self.pool.freed(lease))


def consumed(actions: list[Action[str]]) -> list[tuple[Role, str, int]]:
    consumers = [action.consumer for action in actions if isinstance(action, Consume)]
    return [(consumer.source.role, consumer.source.model, consumer.prefetch) for consumer in consumers]


def test_every_queue_is_consumed_with_prefetch_of_the_slots_and_the_resume_queue_first() -> None:
    worker = Worker(3, "a")
    assert consumed(worker.opening) == [
        (Role.RESUME, "a", 3),
        (Role.MODEL, "a", 3),
        (Role.OWN, "a", 3),
        (Role.PINNED, "", 3),
    ]


def test_a_worker_of_one_model_never_cancels_and_never_consumes_again() -> None:
    worker = Worker(2, "a")
    running = [worker.start(Role.MODEL, "a", "0"), worker.start(Role.MODEL, "a", "1")]
    for number in range(2, 50):
        assert worker.finish(running.pop(0)) == []
        running.append(worker.start(Role.MODEL, "a", str(number)))


def asked(actions: list[Action[str]]) -> list[Source]:
    return [action.source for action in actions if isinstance(action, Get)]


def test_a_delivery_that_finds_the_pool_full_goes_back_after_the_models_consumers_are_cancelled() -> None:
    worker = Worker(1, "a", "b")
    worker.start(Role.MODEL, "a", "0")
    actions = worker.delivered(Role.MODEL, "b", "1")
    *cancels, last = actions
    assert {action.consumer.source for action in cancels if isinstance(action, Cancel)} == {
        Source(Role.MODEL, "a"),
        Source(Role.MODEL, "b"),
    }
    assert isinstance(last, GiveBack)
    assert last.delivery == "1"


def test_a_stream_that_moves_here_in_vain_pauses_its_queue_too() -> None:
    worker = Worker(1, "a", "b")
    lease = worker.start(Role.MODEL, "a", "0")
    cancelled = [
        action.consumer.source for action in worker.delivered(Role.RESUME, "a", "1") if isinstance(action, Cancel)
    ]
    assert set(cancelled) == {Source(Role.RESUME, "a"), Source(Role.MODEL, "a"), Source(Role.MODEL, "b")}
    assert asked(worker.finish(lease)) == [Source(Role.RESUME, "a")]


def test_what_was_in_transit_behind_it_only_goes_back() -> None:
    worker = Worker(2, "a", "b")
    worker.start(Role.MODEL, "a", "0")
    worker.start(Role.MODEL, "a", "1")
    late = worker.live[Source(Role.MODEL, "b")]
    worker.delivered(Role.MODEL, "b", "2")
    assert worker.pool.delivered(late, "3") == [GiveBack("3", late.source)]


def paused(slots: int) -> tuple[Worker, list[Lease[str]]]:
    """A full worker of two models whose queues it does not consume."""
    worker = Worker(slots, "a", "b")
    leases = [worker.start(Role.MODEL, "a", str(number)) for number in range(slots)]
    worker.delivered(Role.MODEL, "b", "too many")
    return worker, leases


def test_a_slot_that_frees_asks_one_queue_and_the_next_slot_the_next_one() -> None:
    worker, leases = paused(2)
    [get] = worker.finish(leases[0])
    [other] = worker.finish(leases[1])
    assert isinstance(get, Get)
    assert isinstance(other, Get)
    assert [get.source.model, other.source.model] == ["b", "a"]
    assert isinstance(worker.pool.got(other, "2")[0], Start)
    assert isinstance(worker.pool.got(get, "3")[0], Start)
    assert worker.pool.free == 0


def test_queues_that_are_not_consumed_have_a_consumer_for_a_moment_so_that_they_do_not_expire() -> None:
    worker, _ = paused(1)
    actions = worker.pool.keep()
    assert sorted(consumed(actions)) == [(Role.MODEL, "a", 1), (Role.MODEL, "b", 1)]
    moments = [action.consumer for action in actions if isinstance(action, Consume)]
    assert moments == [action.consumer for action in actions if isinstance(action, Cancel)]
    assert worker.pool.delivered(moments[0], "1") == [GiveBack("1", moments[0].source)]
    assert Worker(1, "a").pool.keep() == []


def test_a_queue_that_is_empty_is_consumed_again_and_the_next_one_is_asked() -> None:
    worker, leases = paused(2)
    [get] = worker.finish(leases[0])
    assert isinstance(get, Get)
    consume, other = worker.apply(worker.pool.got(get, None))
    assert consumed([consume]) == [(Role.MODEL, "b", 2)]
    assert isinstance(other, Get)
    assert other.source.model == "a"
    assert consumed(worker.pool.got(other, None)) == [(Role.MODEL, "a", 2)]


def test_an_answer_that_a_consumer_was_faster_than_goes_back_under_no_consumer() -> None:
    worker, leases = paused(1)
    [get] = worker.finish(leases[0])
    assert isinstance(get, Get)
    worker.start(Role.RESUME, "b", "1")
    assert worker.pool.got(get, "2") == [GiveBack("2", get.source)]


def test_an_answer_for_a_draining_worker_or_a_removed_model_goes_back() -> None:
    worker, leases = paused(1)
    [get] = worker.finish(leases[0])
    assert isinstance(get, Get)
    worker.pool.remove(sources(get.source.model))
    assert GiveBack("1", get.source) in worker.pool.got(get, "1")


def test_a_draining_worker_does_not_consume_a_queue_that_was_empty() -> None:
    worker, leases = paused(1)
    [get] = worker.finish(leases[0])
    assert isinstance(get, Get)
    worker.pool.drain()
    assert worker.pool.got(get, None) == []


def test_an_answer_of_a_former_channel_is_nobodys_and_its_slot_is_not_claimed_any_more() -> None:
    worker, leases = paused(1)
    [get] = worker.finish(leases[0])
    assert isinstance(get, Get)
    worker.pool.closed()
    assert (Role.MODEL, "a", 1) in consumed(worker.pool.opened())
    assert worker.pool.got(get, None) == []


def test_a_full_worker_hands_on_what_its_own_queue_sent_and_goes_on_consuming_it() -> None:
    worker = Worker(1, "a")
    worker.start(Role.MODEL, "a", "0")
    assert worker.delivered(Role.OWN, "a", "1") == [GiveBack("1", Source(Role.OWN, "a"))]


def test_a_pinned_delivery_waits_and_is_served_before_anything_else() -> None:
    worker = Worker(1, "a")
    lease = worker.start(Role.MODEL, "a", "0")
    assert worker.delivered(Role.PINNED, "", "1") == []
    assert worker.pool.waiting == 1
    (action,) = worker.finish(lease)
    assert isinstance(action, Start)
    assert action.lease.delivery == "1"


def test_a_slot_is_free_while_its_delivery_stays_unacked() -> None:
    worker = Worker(1, "a")
    lease = worker.start(Role.MODEL, "a", "0")
    # Its consumer has no credit, so the queue is asked.
    assert asked(worker.apply(worker.pool.freed(lease))) == [Source(Role.MODEL, "a")]
    assert worker.pool.freed(lease) == []
    assert worker.pool.free == 1


def test_after_a_reconnect_the_prefetch_leaves_out_what_still_runs() -> None:
    worker = Worker(3, "a")
    worker.start(Role.MODEL, "a", "0")
    worker.pool.closed()
    assert {prefetch for _, _, prefetch in consumed(worker.pool.opened())} == {2}


def test_a_full_worker_consumes_nothing_after_a_reconnect_until_a_slot_frees() -> None:
    worker = Worker(1, "a")
    lease = worker.start(Role.MODEL, "a", "0")
    worker.pool.closed()
    assert worker.pool.opened() == []
    assert (Role.MODEL, "a", 1) in consumed(worker.finish(lease))


def test_a_delivery_of_a_former_channel_is_nobodys() -> None:
    worker = Worker(1, "a")
    old = worker.live[Source(Role.MODEL, "a")]
    worker.pool.closed()
    worker.apply(worker.pool.opened())
    assert worker.pool.delivered(old, "0") == []
    assert worker.pool.free == 1


def test_a_draining_worker_cancels_all_and_gives_everything_back() -> None:
    worker = Worker(1, "a")
    live = dict(worker.live)
    lease = worker.start(Role.MODEL, "a", "0")
    worker.delivered(Role.PINNED, "", "1")
    actions = worker.pool.drain()
    assert {action.consumer for action in actions if isinstance(action, Cancel)} == set(live.values())
    assert GiveBack("1", PINNED) in actions
    assert worker.pool.delivered(live[Source(Role.MODEL, "a")], "2") == [GiveBack("2", Source(Role.MODEL, "a"))]
    assert worker.finish(lease) == []


def test_what_is_in_transit_from_a_removed_models_queue_goes_back() -> None:
    worker = Worker(1, "a", "b")
    late = worker.live[Source(Role.MODEL, "b")]
    assert Cancel(late) in worker.pool.remove(sources("b"))
    assert worker.pool.delivered(late, "0") == [GiveBack("0", late.source)]


def test_a_queue_whose_consumer_the_broker_ended_is_consumed_again_when_it_is_declared() -> None:
    worker = Worker(1, "a")
    source = Source(Role.MODEL, "a")
    lost = worker.live[source]
    assert worker.pool.consumer_lost(lost)
    assert not worker.pool.consumer_lost(lost)
    assert consumed(worker.pool.add([source])) == [(Role.MODEL, "a", 1)]


def test_what_came_from_a_deleted_queue_is_void_also_where_its_consumer_was_replaced() -> None:
    worker = Worker(2, "a")
    source = Source(Role.MODEL, "a")
    first = worker.start(Role.MODEL, "a", "1")
    worker.pool.freed(worker.start(Role.OWN, "a", "2"))
    worker.apply(worker.pool.freed(worker.start(Role.OWN, "a", "3")))
    assert not first.is_void
    worker.pool.consumer_lost(worker.live[source])
    worker.apply(worker.pool.add([source]))
    assert first.is_void
    assert not worker.start(Role.MODEL, "a", "4").is_void


def test_a_pinned_delivery_of_a_deleted_queue_is_not_given_back() -> None:
    worker = Worker(1, "a")
    worker.start(Role.MODEL, "a", "1")
    worker.apply(worker.pool.delivered(worker.live[PINNED], "2"))
    worker.pool.consumer_lost(worker.live[PINNED])
    assert not any(isinstance(action, GiveBack) for action in worker.pool.drain())
