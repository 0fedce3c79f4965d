"""Every publish gets exactly one outcome, whatever the broker's acks look like."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from broker_wire.amqp.confirms import Confirms, Outcome, Settled


class Publishes:
    """Confirms with a log of (publish, outcome)."""

    def __init__(self, count: int, size: int = 10) -> None:
        self.confirms = Confirms()
        self.outcomes: list[tuple[int, Outcome]] = []
        for number in range(1, count + 1):
            self.confirms.published(size, partial(self._note, number))

    def _note(self, number: int, outcome: Outcome) -> None:
        self.outcomes.append((number, outcome))

    def settle(self, settled: Settled) -> list[tuple[int, Outcome]]:
        self.outcomes = []
        for on_outcome, outcome in settled:
            on_outcome(outcome)
        return self.outcomes


def test_an_ack_confirms_one_publish() -> None:
    publishes = Publishes(3)
    assert publishes.settle(publishes.confirms.acked(2, False)) == [(2, Outcome.CONFIRMED)]
    assert publishes.confirms.unconfirmed_bytes == 20


def test_a_multiple_ack_confirms_all_up_to_its_tag_in_their_order() -> None:
    publishes = Publishes(4)
    assert publishes.settle(publishes.confirms.acked(3, True)) == [(n, Outcome.CONFIRMED) for n in (1, 2, 3)]
    assert len(publishes.confirms) == 1


def test_a_multiple_ack_of_tag_zero_confirms_everything() -> None:
    publishes = Publishes(3)
    assert len(publishes.settle(publishes.confirms.acked(0, True))) == 3
    assert publishes.confirms.unconfirmed_bytes == 0


def test_a_second_ack_of_the_same_publish_settles_nothing() -> None:
    publishes = Publishes(1)
    publishes.confirms.acked(1, False)
    assert publishes.confirms.acked(1, False) == []


def test_a_nack_is_told_from_an_ack() -> None:
    publishes = Publishes(2)
    assert publishes.settle(publishes.confirms.nacked(2, True)) == [(1, Outcome.NACKED), (2, Outcome.NACKED)]


def test_a_returned_publish_is_returned_at_its_ack_and_its_neighbours_are_confirmed() -> None:
    publishes = Publishes(3)
    publishes.confirms.returned(2)
    assert publishes.settle(publishes.confirms.acked(3, True)) == [
        (1, Outcome.CONFIRMED),
        (2, Outcome.RETURNED),
        (3, Outcome.CONFIRMED),
    ]


def test_a_return_of_an_unknown_publish_changes_nothing() -> None:
    publishes = Publishes(1)
    publishes.confirms.returned(7)
    assert publishes.settle(publishes.confirms.acked(1, False)) == [(1, Outcome.CONFIRMED)]


def test_a_loss_settles_the_rest_and_keeps_what_was_known() -> None:
    publishes = Publishes(3)
    publishes.confirms.acked(1, False)
    publishes.confirms.returned(3)
    assert publishes.settle(publishes.confirms.lost()) == [(2, Outcome.LOST), (3, Outcome.RETURNED)]
    assert publishes.confirms.lost() == []
    assert publishes.confirms.unconfirmed_bytes == 0


def test_a_publish_nobody_asks_about_counts_its_bytes_only() -> None:
    confirms = Confirms()
    confirms.published(5, None)
    assert confirms.unconfirmed_bytes == 5
    assert confirms.acked(1, False) == []
    assert confirms.unconfirmed_bytes == 0


@given(st.lists(st.tuples(st.sampled_from(["ack", "nack", "return"]), st.integers(0, 12), st.booleans())))
def test_every_publish_has_exactly_one_outcome(answers: list[tuple[str, int, bool]]) -> None:
    publishes = Publishes(10)
    seen: list[int] = []
    for kind, tag, multiple in answers:
        if kind == "return":
            publishes.confirms.returned(tag)
            continue
        settle = publishes.confirms.acked if kind == "ack" else publishes.confirms.nacked
        seen += [number for number, _ in publishes.settle(settle(tag, multiple))]
    seen += [number for number, _ in publishes.settle(publishes.confirms.lost())]
    assert sorted(seen) == list(range(1, 11))
    assert publishes.confirms.unconfirmed_bytes == 0
