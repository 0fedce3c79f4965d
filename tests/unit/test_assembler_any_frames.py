"""Frames of every kind, lost, doubled, late and sent again, give the answer that a plain list of them gives."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import takewhile
from unittest.mock import patch

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker_controller import assembler
from broker_controller.assembler import Assembler
from broker_wire.messages import End, Had, Payloads, Piece, Texts
from broker_wire.repetition import Digest, read_payload

Item = str | Piece | End
"""What one number stands for: a plain delta, or a frame of its own."""
Frame = Texts | Payloads | Piece | End


def chunk(index: int, text: str) -> bytes:
    return msgspec.json.encode({"id": "x", "choices": [{"index": index, "delta": {"content": text}}]})


# Few values, so that what is rare among texts and numbers of any kind comes in most answers.
deltas = st.sampled_from(["", "a", "bc", "dé\n"])
indices = st.sampled_from([0, 0, 1, 2])
chunks = st.builds(
    lambda text, index, cut, logprobs, reason: Piece(1, 1, 0, text, None, index, cut, logprobs, reason),
    text=deltas,
    index=indices,
    cut=st.sampled_from([None, 0, 1, 5]),
    logprobs=st.none() | st.just(b"[1]"),
    reason=st.none() | st.just("stop"),
)
payloads = st.builds(chunk, indices, deltas) | st.just(b"no chunk")
items = deltas | deltas | chunks | st.builds(lambda payload: Piece(1, 1, 0, payload=payload), payloads)
answers = st.lists(items, min_size=10, max_size=30).map(lambda items: [*items, End(1, 1, 0)])
offsets = st.sampled_from([0, 0, 0, 1, 2, -1, -2, -5])
deliveries = st.lists(st.tuples(offsets, st.integers(1, 6)), min_size=20, max_size=60)
"""Each a number, counted from the next one that is lacking, and how many deltas in a row the frame has at most."""


def frame_at(answer: list[Item], seq: int, length: int) -> Frame:
    """Of payloads in a row every other time one frame, and a frame each."""
    item = answer[seq]
    texts = list(takewhile(lambda following: isinstance(following, str), answer[seq : seq + length]))
    if texts:
        return Texts(1, 1, seq, [str(text) for text in texts])
    payloads = [bare_of(following) for following in answer[seq : seq + length]]
    if length % 2 and payloads[0] is not None:
        return Payloads(1, 1, seq, [payload for payload in takewhile(bool, payloads) if payload])
    assert not isinstance(item, str)
    return msgspec.structs.replace(item, seq=seq)


def bare_of(item: Item) -> bytes | None:
    return item.payload if isinstance(item, Piece) else None


def offer(assembled: Assembler, frame: Frame) -> list[Item] | None:
    """What is new of it, None where an earlier one is missing."""
    if isinstance(frame, Texts):
        new = assembled.accept_texts(frame)
        return None if new is None else [*new]
    if isinstance(frame, Payloads):
        runs = assembled.accept_payloads(frame)
        return None if runs is None else [msgspec.structs.replace(one, seq=0) for run in runs for one in run.pieces()]
    accepted = assembled.accept(frame)
    if accepted is None:
        return None
    return [msgspec.structs.replace(frame, seq=0)] if accepted else []


def numbers_of(frame: Frame) -> range:
    match frame:
        case Texts(seq=seq, texts=chunks) | Payloads(seq=seq, payloads=chunks):
            return range(seq, seq + len(chunks))
        case _:
            return range(frame.seq, frame.seq + 1)


def plainly(items: list[Item]) -> tuple[str, tuple[Had, ...]]:
    """The text of choice 0, and what there is besides."""
    texts: defaultdict[int, str] = defaultdict(str)
    digests: defaultdict[int, Digest] = defaultdict(Digest)
    measured: defaultdict[int, int] = defaultdict(int)
    ended: set[int] = set()
    for item in items:
        if isinstance(item, str):
            texts[0] += item
        elif isinstance(item, Piece) and item.payload is not None:
            index, comparable = read_payload(item.payload)
            digests[index].add(comparable)
        elif isinstance(item, Piece):
            texts[item.index] = texts[item.index][: item.replace_from] + item.text
            measured[item.index] += item.logprobs is not None
            if item.finish_reason is not None:
                ended.add(item.index)
    besides = {index for index in texts if index} | digests.keys() | ended | {i for i in measured if measured[i]}
    return texts[0], tuple(
        Had(
            index,
            texts[index] if index else "",
            measured[index],
            digests[index].chunks,
            digests[index].value if digests[index].chunks else b"",
            index in ended,
        )
        for index in sorted(besides)
    )


def sent_again(answer: list[Item], assembled: Assembler) -> Iterator[Frame]:
    while assembled.next_seq < len(answer):
        yield frame_at(answer, assembled.next_seq, 4)


@given(answers, deliveries)
def test_whatever_comes_in_whatever_order_the_answer_has_no_hole_and_nothing_twice(
    answer: list[Item], deliveries: list[tuple[int, int]]
) -> None:
    with patch.object(assembler, "FOLD", 3):
        assembled, given_out, doubled = Assembler(), list[Item](), 0
        for offset, length in deliveries:
            lacking = assembled.next_seq
            frame = frame_at(answer, min(max(0, lacking + offset), len(answer) - 1), length)
            numbers = numbers_of(frame)

            new = offer(assembled, frame)

            if frame.seq > lacking:
                assert new is None
                assert assembled.next_seq == lacking
            else:
                assert new == answer[lacking : max(lacking, numbers.stop)]
                doubled += sum(number < lacking for number in numbers)
                given_out += new
            assert given_out == answer[: assembled.next_seq]
            assert (assembled.text, assembled.choices) == plainly(given_out)
            assert assembled.duplicates == doubled
        for frame in sent_again(answer, assembled):
            given_out += offer(assembled, frame) or []
        assert given_out == answer
        assert (assembled.text, assembled.choices) == plainly(answer)
