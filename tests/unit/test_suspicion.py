"""Which deaths count against a request, where its copies come back before anybody knows of a death."""

from broker_controller.suspicion import OBITUARY_DELAY, Suspicion


def left_two_within_a_moment(max_kills: int = 3) -> Suspicion:
    suspicion = Suspicion(max_kills)
    suspicion.on_start(0.0)
    suspicion.on_left("i1", 0.0, worker="w1", is_dead=False)
    suspicion.on_left("i2", 0.1, worker="w2", is_dead=False)
    return suspicion


def test_leaves_that_no_obituary_follows_are_no_deaths() -> None:
    suspicion = left_two_within_a_moment()
    suspicion.on_left("i3", 0.2, worker="w3", is_dead=False)
    assert suspicion.apart > 0
    suspicion.on_obituary("another", 0.2 + OBITUARY_DELAY)
    assert suspicion.apart == 0


def test_the_first_of_two_that_were_left_may_turn_out_to_live() -> None:
    suspicion = left_two_within_a_moment()
    suspicion.on_alive("i1")
    assert suspicion.apart == 0


def test_an_obituary_of_the_first_of_two_that_were_left_is_charged() -> None:
    suspicion = left_two_within_a_moment(max_kills=1)
    suspicion.on_left("i3", 0.2, worker="w3", is_dead=False)
    suspicion.on_left("i4", 0.3, worker="w4", is_dead=False)
    assert suspicion.on_obituary("i3", 0.4)
    assert suspicion.killed == ("w3",)


def test_a_worker_that_was_left_twice_died_once_at_most() -> None:
    suspicion = Suspicion(3)
    suspicion.on_start(0.0)
    suspicion.on_left("i1", 0.0, worker="w1", is_dead=False)
    suspicion.on_left("i1", 0.1, worker="w1", is_dead=False)
    assert suspicion.apart == 0


def test_a_worker_that_was_started_again_under_its_name_is_named_for_each_death() -> None:
    suspicion = left_two_within_a_moment()
    suspicion.on_left("i3", 0.2, worker="w1", is_dead=True)
    suspicion.on_left("i4", 0.3, worker="w1", is_dead=True)
    assert suspicion.killed == ("w1", "w1")
