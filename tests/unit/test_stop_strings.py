"""Stop strings against a text that comes in any pieces."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from workers_shim.engines.stop_strings import StopStrings

texts = st.lists(st.text("ab#\n", max_size=5), max_size=8)
stop_lists = st.lists(st.text("ab#\n", min_size=1, max_size=4), max_size=3)


def before_the_first(text: str, stops: list[str]) -> str:
    """Up to the stop string that is complete first; of two that end together, the longer one."""
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    return text[: min(ends)[1]] if ends else text


@given(texts, stop_lists)
def test_a_text_ends_before_the_first_however_it_is_cut(pieces: list[str], stops: list[str]) -> None:
    guard = StopStrings(stops)
    shown = [guard.feed(piece) for piece in pieces] + [guard.rest()]

    whole = "".join(pieces)
    assert "".join(shown) == before_the_first(whole, stops)
    assert guard.found == any(stop in whole for stop in stops)


@given(texts, stop_lists)
def test_no_more_is_held_back_than_may_begin_a_stop_string(pieces: list[str], stops: list[str]) -> None:
    guard = StopStrings(stops)
    shown = ""
    for text in itertools.accumulate(pieces):
        shown += guard.feed(text[len(shown) + len(guard._held) :])
        if guard.found:
            break
        held = text[len(shown) :]
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_a_stop_string_across_three_pieces_is_never_seen_in_part() -> None:
    guard = StopStrings(["###"])

    assert [guard.feed(piece) for piece in ("one #", "#", "# two")] == ["one ", "", ""]
    assert guard.found
