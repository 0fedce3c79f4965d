"""The answer is put together from frames that come twice, late, or not at all."""

from hypothesis import given
from hypothesis import strategies as st

from broker_controller.assembler import MAX_REPEATED, Assembler
from broker_wire.messages import End, Piece, Texts


def texts(seq: int, *deltas: str) -> Texts:
    return Texts(1, 1, seq, list(deltas))


def test_deltas_come_out_in_order() -> None:
    answer = Assembler()
    assert answer.accept_texts(texts(0, "a", "b")) == ["a", "b"]
    assert answer.accept_texts(texts(2, "c")) == ["c"]
    assert answer.text == "abc"
    assert answer.next_seq == 3


def test_a_long_answer_is_not_kept_as_single_tokens() -> None:
    answer = Assembler()
    tokens = [f" t{number}" for number in range(10_000)]
    for seq, token in enumerate(tokens):
        answer.accept_texts(texts(seq, token))
    kept = len(answer._parts) + len(answer._folded)
    assert kept < 500
    answer.accept(Piece(1, 1, 10_000, "!", replace_from=answer.size - 1))
    answer.accept_texts(texts(10_001, "?"))
    assert answer.text == "".join(tokens)[:-1] + "!?"


def test_what_came_twice_is_dropped_and_the_new_part_of_it_is_kept() -> None:
    answer = Assembler()
    answer.accept_texts(texts(0, "a", "b"))
    assert answer.accept_texts(texts(0, "a", "b")) == []
    assert answer.accept_texts(texts(1, "b", "c")) == ["c"]
    assert answer.text == "abc"
    assert answer.duplicates == 3


def test_a_gap_is_told_and_nothing_behind_it_is_taken() -> None:
    answer = Assembler()
    answer.accept_texts(texts(0, "a"))
    assert answer.accept_texts(texts(2, "c")) is None
    assert answer.accept(End(1, 1, 3)) is None
    assert answer.text == "a"
    assert answer.accept_texts(texts(1, "b", "c")) == ["b", "c"]
    assert answer.accept(End(1, 1, 3)) is True
    assert answer.accept(End(1, 1, 3)) is False


def test_a_piece_that_replaces_shortens_the_text() -> None:
    answer = Assembler()
    answer.accept_texts(texts(0, "hello", " world"))
    assert answer.accept(Piece(1, 1, 2, "!", replace_from=5)) is True
    assert answer.text == "hello!"


def test_an_answer_too_large_to_be_told_to_another_worker_is_not_resumable() -> None:
    answer = Assembler()
    answer.accept(Piece(1, 1, 0, payload=b"x" * (MAX_REPEATED - 1)))
    assert answer.resumable
    answer.accept(Piece(1, 1, 1, payload=b"xx"))
    assert not answer.resumable
    assert answer.choices == ()


@given(
    deltas=st.lists(st.text(max_size=3), min_size=1, max_size=30),
    cuts=st.lists(st.tuples(st.integers(0, 29), st.integers(1, 8)), max_size=60),
)
def test_whatever_is_lost_doubled_or_late_the_text_has_no_hole_and_nothing_twice(
    deltas: list[str], cuts: list[tuple[int, int]]
) -> None:
    answer = Assembler()
    given_out: list[str] = []
    for start, length in cuts:
        given_out += answer.accept_texts(texts(start, *deltas[start : start + length])) or []
        assert "".join(given_out) == "".join(deltas[: answer.next_seq]) == answer.text
    given_out += answer.accept_texts(texts(answer.next_seq, *deltas[answer.next_seq :])) or []
    assert given_out == deltas


def test_what_came_at_another_controller_is_told_as_had_and_numbered_before() -> None:
    there, here = Assembler(), Assembler()
    items: list[str | Piece] = ["a", Piece(7, 3, 9, "b"), Piece(7, 3, 9, payload=b'{"choices": []}'), "c"]
    here.preload(items)
    there.accept_texts(Texts(1, 1, 0, ["a"]))
    there.accept(Piece(1, 1, 1, "b"))
    there.accept(Piece(1, 1, 2, payload=b'{"choices": []}'))
    there.accept_texts(Texts(1, 1, 3, ["c"]))
    assert (
        (here.next_seq, here.text, here.choices)
        == (there.next_seq, there.text, there.choices)
        == (4, "abc", here.choices)
    )
    assert here.size == there.size
