"""Generate again and skip: whatever the chunks, the client reads one text."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers_shim.replay import Diverged, Replay
from workers_shim.request import Chunk, Usage


def cut(text: str, places: list[int]) -> list[str]:
    bounds = sorted({0, len(text), *(place for place in places if place < len(text))})
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


def repeat(replay: Replay, items: list[str | Chunk]) -> str:
    """What the client gets besides what it has."""
    rest = [replay.rest_of(item) for item in items]
    replay.finish()
    return "".join(item if isinstance(item, str) else item.text for item in rest if item is not None)


@given(st.text(min_size=1), st.lists(st.integers(0, 100)), st.integers(0, 1000), st.booleans())
def test_any_cut_at_any_position_gives_the_same_text(text: str, places: list[int], had: int, chunks: bool) -> None:
    had %= len(text) + 1
    pieces: list[str | Chunk] = [Chunk(piece) if chunks else piece for piece in cut(text, places)]

    assert text[:had] + repeat(Replay(text[:had]), pieces) == text


@given(st.text(min_size=1), st.lists(st.integers(0, 100)), st.integers(0, 1000), st.characters())
def test_a_difference_anywhere_in_what_the_client_has_is_found(
    text: str, places: list[int], where: int, other: str
) -> None:
    where %= len(text)
    changed = text[:where] + other + text[where + 1 :]
    pieces: list[str | Chunk] = [*cut(changed, places)]

    if changed == text:
        assert repeat(Replay(text), pieces) == ""
    else:
        with pytest.raises(Diverged, match=f"after {where} characters"):
            repeat(Replay(text), pieces)


@given(st.text(min_size=1), st.integers(0, 1000))
def test_an_answer_that_ends_too_early_is_found(text: str, size: int) -> None:
    with pytest.raises(Diverged, match="ended after"):
        repeat(Replay(text), [text[: size % len(text)]])


def test_counts_and_the_reason_of_the_end_are_kept_of_chunks_that_the_client_has() -> None:
    last = Chunk("c", finish_reason="length", usage=Usage(1, 2), logprobs=b"[]")

    assert Replay("abc").rest_of("ab") is None
    assert Replay("c").rest_of(last) == Chunk(finish_reason="length", usage=Usage(1, 2))
    assert Replay("x").rest_of(Chunk(usage=Usage(1, 2))) == Chunk(usage=Usage(1, 2))


def test_an_answer_that_takes_text_back_cannot_be_repeated() -> None:
    with pytest.raises(Diverged, match="takes text back"):
        Replay("a").rest_of(Chunk("a", replace_from=0))
