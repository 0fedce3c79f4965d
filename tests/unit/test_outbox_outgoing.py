"""One answer's way out: numbering, back-pressure, what is kept, across threads."""

import threading
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_controller.assembler import Assembler
from broker_wire.messages import End, Failed, FailureKind, Payloads, Piece, Progress, Texts, Usage
from workers_shim.answer_frames import RUN_BYTES
from workers_shim.outgoing import Outgoing
from workers_shim.request import Cancelled, Chunk
from workers_shim.retention import Numbered, Sent

PATIENCE = 20.0


class Ready:
    """Counts the wake-ups that a stream asks for."""

    def __init__(self) -> None:
        self.marked = 0
        self.released = 0

    def stream(self, *, next_seq: int = 0, buffer_bytes: int = 1000, retained_bytes: int = 10_000) -> Outgoing:
        return Outgoing(
            "c",
            7,
            2,
            next_seq,
            ready=self._mark,
            released=self._release,
            buffer_bytes=buffer_bytes,
            retained_bytes=retained_bytes,
        )

    def _mark(self, _: Outgoing) -> None:
        self.marked += 1

    def _release(self, _: Outgoing) -> None:
        self.released += 1


@pytest.fixture
def ready() -> Ready:
    return Ready()


def frames(stream: Outgoing) -> list[Numbered]:
    return [sent.frame for sent in stream.take()[0]]


def test_payloads_in_a_row_are_one_frame_but_for_those_that_say_more_or_are_large(ready: Ready) -> None:
    stream = ready.stream(buffer_bytes=100_000)
    large = b"x" * (RUN_BYTES + 1)
    said = [Chunk(payload=b"c", finish_reason="stop"), Chunk(payload=b"d", usage=Usage(1, 2)), Chunk("e", payload=b"e")]
    for chunk in (Chunk(payload=b"a"), Chunk(payload=b"b"), *said, Chunk(payload=large), Chunk(payload=b"f")):
        assert stream.offer(chunk)
    stream.offer("g")
    assert ready.marked == 1
    assert frames(stream) == [
        Payloads(7, 2, 0, [b"a", b"b"]),
        Piece(7, 2, 2, payload=b"c", finish_reason="stop"),
        Piece(7, 2, 3, payload=b"d"),
        Piece(7, 2, 4, "e", b"e"),
        Piece(7, 2, 5, payload=large),
        Payloads(7, 2, 6, [b"f"]),
        Texts(7, 2, 7, ["g"]),
    ]
    assert stream.resend_from(1)
    assert frames(stream)[0] == Payloads(7, 2, 0, [b"a", b"b"])


def test_a_burst_of_chunks_asks_to_be_taken_once_and_becomes_one_frame(ready: Ready) -> None:
    stream = ready.stream(next_seq=5)
    for text in ("a", "b", "", "c"):
        assert stream.offer(text)
    assert ready.marked == 1
    assert frames(stream) == [Texts(7, 2, 5, ["a", "b", "", "c"])]
    stream.offer("d")
    assert ready.marked == 2
    assert frames(stream) == [Texts(7, 2, 9, ["d"])]


def test_chunks_with_more_than_text_keep_their_place_between_the_texts(ready: Ready) -> None:
    stream = ready.stream()
    stream.offer("a")
    stream.offer(Chunk("b", payload=b"{}", index=1, replace_from=3, logprobs=b"[]", finish_reason="length"))
    stream.offer("c")
    stream.end("stop", Usage(1, 2))
    assert frames(stream) == [
        Texts(7, 2, 0, ["a"]),
        Piece(7, 2, 1, "b", b"{}", 1, 3, b"[]", "length"),
        Texts(7, 2, 2, ["c"]),
        End(7, 2, 3, "stop", Usage(1, 2)),
    ]


def test_only_the_first_last_word_counts(ready: Ready) -> None:
    stream = ready.stream()
    stream.fail(FailureKind.REQUEST, "too long", code="too_long", param="prompt")
    stream.end()
    assert frames(stream) == [Failed(7, 2, 0, FailureKind.REQUEST, "too long", "too_long", "prompt")]


def test_an_engine_is_asked_to_wait_above_the_mark_until_the_chunks_are_taken(ready: Ready) -> None:
    stream = ready.stream(buffer_bytes=100)
    assert stream.offer("x" * 50)
    assert not stream.offer("x" * 50)
    assert not stream.wait_writable(0.0)
    called: list[bool] = []
    stream.on_writable(lambda: called.append(True))
    assert not called
    stream.take()
    assert called == [True]
    assert stream.wait_writable(0.0)


def test_many_empty_chunks_fill_the_buffer_too(ready: Ready) -> None:
    stream = ready.stream(buffer_bytes=1000)
    assert any(not stream.offer("") for _ in range(1000))


@pytest.mark.parametrize("how", [Outgoing.pause, Outgoing.hold], ids=["paused", "held"])
def test_an_engine_waits_while_its_reader_is_slow_or_away(ready: Ready, how: Callable[[Outgoing, bool], None]) -> None:
    stream = ready.stream()
    how(stream, True)
    assert not stream.offer("a")
    called: list[bool] = []
    stream.on_writable(lambda: called.append(True))
    stream.take()
    assert not called
    how(stream, False)
    assert called == [True]
    assert stream.offer("b")


def test_a_dropped_stream_stops_its_engine_wherever_that_is(ready: Ready) -> None:
    stream = ready.stream(buffer_bytes=1)
    stopped: list[str] = []
    stream.offer("a")
    stream.on_cancelled(lambda: stopped.append("told"))
    stream.on_writable(lambda: stopped.append("woken"))
    stream.drop()
    assert stopped == ["told", "woken"]
    assert stream.cancelled
    with pytest.raises(Cancelled):
        stream.offer("b")
    stream.on_cancelled(lambda: stopped.append("told at once"))
    assert stopped[-1] == "told at once"
    stream.progress()
    stream.end()
    assert stream.take() == ([], None)


def test_progress_is_said_once_a_second_and_only_when_there_is_nothing_else(ready: Ready) -> None:
    stream = ready.stream()
    for _ in range(100):
        stream.progress()
    assert stream.take() == ([], Progress(7, 2))
    stream.progress()
    assert stream.take() == ([], None)


def test_an_answer_is_settled_when_all_of_it_is_confirmed_and_its_end_among_it(ready: Ready) -> None:
    stream = ready.stream()
    stream.offer("a")
    (first,), _ = stream.take()
    stream.retention.confirm(first)
    assert not stream.settled
    stream.offer("b")
    stream.end()
    sents, _ = stream.take()
    stream.retention.confirm(sents[-1])
    assert not stream.settled
    stream.retention.confirm(sents[0])
    assert stream.settled


def test_what_did_not_arrive_goes_out_again_before_what_is_new(ready: Ready) -> None:
    stream = ready.stream()
    stream.offer("a")
    (lost,), _ = stream.take()
    stream.offer("b")
    stream.retention.unsend(lost)
    assert frames(stream) == [Texts(7, 2, 0, ["a"]), Texts(7, 2, 1, ["b"])]
    assert frames(stream) == []


def test_a_resend_begins_with_the_frame_that_holds_the_number(ready: Ready) -> None:
    stream = ready.stream()
    for texts in (["a", "b"], ["c"], ["d"]):
        for text in texts:
            stream.offer(text)
        for sent in stream.take()[0]:
            stream.retention.confirm(sent)
    assert stream.resend_from(1)
    assert frames(stream) == [Texts(7, 2, 0, ["a", "b"]), Texts(7, 2, 2, ["c"]), Texts(7, 2, 3, ["d"])]
    assert stream.resend_from(4)
    assert frames(stream) == []
    assert not stream.resend_from(5)


def test_confirmed_frames_above_the_bound_are_let_go_the_oldest_first(ready: Ready) -> None:
    stream = ready.stream(retained_bytes=250)
    for _ in range(4):
        stream.offer("x" * 84)
        (sent,), _ = stream.take()
        stream.retention.confirm(sent)
    assert stream.retention.size == 200
    assert not stream.resend_from(1)
    assert stream.resend_from(2)


def test_frames_that_are_not_confirmed_are_kept_above_the_bound(ready: Ready) -> None:
    stream = ready.stream(retained_bytes=250)
    for _ in range(4):
        stream.offer("x" * 84)
        stream.take()
    assert stream.resend_from(0)


def test_a_frame_that_cannot_be_carried_ends_the_answer_as_an_error(ready: Ready) -> None:
    stream = ready.stream()
    stream.offer("a")
    stream.take()
    stream.offer("b")
    (bad,), _ = stream.take()
    stream.offer("c")
    stream.replace_by_failure(bad, FailureKind.ENGINE, "too large")
    assert frames(stream) == [Failed(7, 2, 1, FailureKind.ENGINE, "too large")]
    assert stream.cancelled
    stream.end()
    assert frames(stream) == []


def test_nothing_is_lost_or_reordered_between_an_engines_thread_and_the_loop() -> None:
    count = 20_000
    wakes: deque[Outgoing] = deque()
    woken = threading.Event()

    def mark(stream: Outgoing) -> None:
        wakes.append(stream)
        woken.set()

    stream = Outgoing("c", 1, 1, 0, ready=mark, released=lambda _: None, buffer_bytes=4000)

    def engine() -> None:
        for number in range(count):
            if not stream.offer(str(number)):
                assert stream.wait_writable(PATIENCE)
        stream.end()

    thread = threading.Thread(target=engine)
    thread.start()
    texts: list[str] = []
    while not stream.ended:
        assert woken.wait(PATIENCE)
        woken.clear()
        while wakes:
            for sent in wakes.popleft().take()[0]:
                stream.retention.confirm(sent)
                texts += sent.frame.texts if isinstance(sent.frame, Texts) else []
    thread.join(PATIENCE)
    assert texts == [str(number) for number in range(count)]


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.text(max_size=3)),
        st.tuples(st.just("piece"), st.text(max_size=3)),
        st.tuples(st.just("payload"), st.text(max_size=3)),
        st.tuples(st.just("take"), st.just("")),
        st.tuples(st.sampled_from(["confirm", "lose", "return", "confirm but not received"]), st.just("")),
        st.tuples(st.just("gap"), st.just("")),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(EVENTS)
def test_whatever_is_lost_on_the_way_the_controller_gets_all_of_it_once_or_hears_that_it_is_gone(
    events: list[tuple[str, str]],
) -> None:
    ready = Ready()
    stream = ready.stream(retained_bytes=400)
    answer = Assembler()
    offered = ""
    payloads: list[bytes] = []
    received: list[bytes] = []
    flights: deque[list[Sent]] = deque()
    gone = False

    def receive(sents: list[Sent]) -> None:
        for sent in sents:
            match sent.frame:
                case Texts():
                    answer.accept_texts(sent.frame)
                case Payloads():
                    for run in answer.accept_payloads(sent.frame) or []:
                        received.extend(run.payloads)
                case _:
                    answer.accept(sent.frame)

    def settle(outcome: str) -> None:
        flight = flights.popleft()
        if outcome == "confirm":
            receive(flight)
        for sent in flight:
            if outcome in ("confirm", "confirm but not received"):
                stream.retention.confirm(sent)
            else:
                stream.retention.unsend(sent)

    for event, text in [*events, ("end", "")]:
        match event:
            case "offer":
                stream.offer(text)
                offered += text
            case "piece":
                stream.offer(Chunk(text, logprobs=b"[]"))
                offered += text
            case "payload":
                stream.offer(Chunk(payload=text.encode()))
                payloads.append(text.encode())
            case "end":
                stream.end()
            case "take":
                flights.append(stream.take()[0])
            case "gap":
                gone = gone or not stream.resend_from(answer.next_seq)
            case outcome if flights:
                settle(outcome)
    # In the end everything goes well, and the controller asks for what it lacks.
    flights.append(stream.take()[0])
    while flights:
        settle("confirm")
    gone = gone or not stream.resend_from(answer.next_seq)
    flights.append(stream.take()[0])
    settle("confirm")
    flights.append(stream.take()[0])
    settle("confirm")
    if gone:
        assert offered.startswith(answer.text)
        assert received == payloads[: len(received)]
    else:
        assert (answer.text, received) == (offered, payloads)
        assert stream.settled
