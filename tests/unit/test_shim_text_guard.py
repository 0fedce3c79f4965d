"""From an old worker's cumulative texts to what a client is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers_shim.text_guard import PromptStripper, Shown, TextGuard, find_stop

ALPHABET = "ab#\n\ufffd "
texts = st.text(ALPHABET, max_size=12)
stops = st.lists(st.text("ab#\n", min_size=1, max_size=4), max_size=3)


class Screen:
    """A client that shows what it is told to show."""

    def __init__(self) -> None:
        self.text = ""
        self.retractions: list[int] = []

    def show(self, shown: Shown | None) -> None:
        if shown is None:
            return
        if shown.replace_from is not None:
            assert shown.replace_from <= len(self.text)
            self.retractions.append(len(self.text) - shown.replace_from)
            self.text = self.text[: shown.replace_from]
        self.text += shown.text


def watch(guard: TextGuard, cumulative: list[str]) -> Screen:
    screen = Screen()
    for text in cumulative:
        screen.show(guard.feed(text))
        assert text.startswith(screen.text), "what is shown is a beginning of the latest text"
    screen.show(guard.finish())
    return screen


def like_llava(tokens: list[str], stop: str) -> list[str]:
    """Texts as a worker sends them that cuts a stop string off when it is complete, and goes on."""
    text, sent = "", []
    for token in tokens:
        text += token
        if text.endswith(stop):
            text = text[: -len(stop)]
        sent.append(text)
    return sent


@given(st.lists(texts, min_size=1), stops)
def test_whatever_an_upstream_sends_its_last_text_is_what_the_client_has(sent: list[str], stops: list[str]) -> None:
    assert watch(TextGuard(stops), sent).text == sent[-1]


@given(st.lists(st.text("ab#\n", max_size=4), min_size=1), st.text("ab#\n", min_size=1, max_size=4))
def test_a_stop_string_that_is_cut_off_is_never_shown_in_part(tokens: list[str], stop: str) -> None:
    sent = like_llava(tokens, stop)

    screen = watch(TextGuard([stop]), sent)

    assert screen.text == sent[-1]
    assert screen.retractions == []


@given(st.text(max_size=30), st.data())
def test_a_character_whose_bytes_come_one_by_one_is_never_shown_in_part(text: str, data: st.DataObject) -> None:
    raw = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    sent = [raw[:cut].decode("utf-8", "replace") for cut in (*cuts, len(raw))]

    screen = watch(TextGuard(), sent)

    assert screen.text == raw.decode()
    assert screen.retractions == []


def test_plain_tokens_are_shown_at_once() -> None:
    guard = TextGuard(["###"])

    assert guard.feed("one") == Shown("one")
    assert guard.feed("one two") == Shown(" two")
    assert guard.finish() is None


def test_what_may_become_a_stop_string_waits_for_the_next_token() -> None:
    guard = TextGuard(["###", "</s>"])

    assert guard.feed("end ##") == Shown("end ")
    assert guard.feed("end ## Heading") == Shown("## Heading")


def test_what_was_held_back_belongs_to_the_answer_when_nothing_follows() -> None:
    guard = TextGuard(["###"])
    guard.feed("end ##")

    assert guard.finish() == Shown("##")


def test_many_replacement_characters_are_the_models_own_and_are_shown() -> None:
    guard = TextGuard()

    assert guard.feed("\ufffd" * 5) == Shown("\ufffd" * 2)
    assert guard.finish() == Shown("\ufffd" * 3)


def test_a_text_that_shrinks_for_no_known_reason_is_replaced_from_where_it_differs() -> None:
    guard = TextGuard()
    guard.feed("do n't")

    assert guard.feed("don't") == Shown("n't", replace_from=2)


def test_the_prompt_is_cut_off_where_it_comes_although_it_was_not_wanted() -> None:
    stripper = PromptStripper("Q: hi A:", honours_echo=False)

    assert [stripper.answer_of("Q: hi A:" + text) for text in ("", " he", " hello")] == ["", " he", " hello"]
    assert not stripper.leaves_prompt_out


def test_a_text_without_the_prompt_is_taken_as_it_is() -> None:
    stripper = PromptStripper("Q: hi A:", honours_echo=False)

    assert [stripper.answer_of(text) for text in ("", "A", "A: no")] == ["", "A", "A: no"]
    assert stripper.leaves_prompt_out


def test_a_text_that_the_prompt_begins_with_proves_nothing_about_later_answers() -> None:
    stripper = PromptStripper("Q: hi A:", honours_echo=False)

    assert stripper.answer_of("Q:") == "Q:"
    assert not stripper.leaves_prompt_out


def test_an_answer_that_repeats_the_prompt_is_whole_when_the_worker_is_known_to_leave_prompts_out() -> None:
    stripper = PromptStripper("one", honours_echo=True)

    assert stripper.answer_of("one two") == "one two"


def test_a_stop_string_that_began_in_the_prompt_takes_the_prompts_end_with_it_and_no_more() -> None:
    stripper = PromptStripper("go ##", honours_echo=False)

    assert stripper.answer_of("go ##") == ""
    assert stripper.answer_of("go ") == ""
    assert stripper.answer_of("go on") == "on"


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [("a###b", 0, 1), ("a###b", 3, 1), ("a##", 0, None), ("a\nb###", 0, 1), ("", 0, None)],
)
def test_the_first_stop_string_is_found_even_if_it_began_in_the_text_before(
    text: str, start: int, expected: int | None
) -> None:
    assert find_stop(text, ["###", "\n"], start) == expected
