"""Text from tokens one by one, with tokenizers whose borders are bytes, or whose first token differs."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from workers_shim.engines.detokenizer import Detokenizer


def decode_bytes(tokens: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(tokens).decode(errors="replace")


def decode_words(tokens: Sequence[int]) -> str:
    """As SentencePiece: each word has its space before it, that of the first one of a text is left out."""
    return "".join(f" {token}" for token in tokens).removeprefix(" ")


@given(st.text(max_size=20), st.text(max_size=20))
def test_all_pieces_together_are_the_text(before: str, text: str) -> None:
    pieces = Detokenizer(decode_bytes, before.encode())

    shown = [pieces.feed(token) for token in text.encode()] + [pieces.rest()]

    assert "".join(shown) == text


def test_a_character_comes_when_its_last_byte_has_come() -> None:
    pieces = Detokenizer(decode_bytes, b"")

    assert [pieces.feed(token) for token in "a€".encode()] == ["a", "", "", "€"]


def test_what_stays_incomplete_is_shown_at_the_end() -> None:
    pieces = Detokenizer(decode_bytes, b"")

    assert [pieces.feed(token) for token in "€".encode()[:2]] == ["", ""]
    assert pieces.rest() == "\ufffd"
    assert pieces.rest() == ""


def test_bytes_that_are_no_character_do_not_hold_up_what_follows() -> None:
    pieces = Detokenizer(decode_bytes, b"")

    shown = "".join(pieces.feed(token) for token in b"\xff" * 20 + b"end")

    assert shown.endswith("end")


def test_the_answer_goes_on_from_the_prompt_with_its_space() -> None:
    pieces = Detokenizer(decode_words, [1, 2, 3])

    assert [pieces.feed(token) for token in (4, 5)] == [" 4", " 5"]
