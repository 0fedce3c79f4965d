"""An answer of any kind, broken off anywhere and generated again: the client has all of it, once."""

from collections import defaultdict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_controller.assembler import Assembler
from broker_controller.http.answers import assemble
from broker_controller.http.events import EventWriter
from broker_controller.http.shapes import CHAT
from broker_wire.messages import End, Piece, Usage
from workers_shim.replay import Diverged, Replay
from workers_shim.request import Chunk


def payload(index: int, text: str, generation: int, **more: object) -> bytes:
    delta: dict[str, object] = {"content": text, **more}
    choice = {"index": index, "delta": delta, "logprobs": {"content": [generation / 7]}}
    return msgspec.json.encode({"id": f"g{generation}", "created": generation, "choices": [choice]})


def as_piece(chunk: Chunk, seq: int, attempt: int = 1) -> Piece:
    return Piece(1, attempt, seq, chunk.text, chunk.payload, chunk.index, None, chunk.logprobs, chunk.finish_reason)


def had_by(chunks: list[Chunk]) -> Assembler:
    answer = Assembler()
    for seq, chunk in enumerate(chunks):
        answer.accept(as_piece(chunk, seq))
    return answer


def repeat(answer: Assembler, chunks: list[Chunk]) -> list[Chunk]:
    replay = Replay(answer.text, answer.choices)
    rest = [replay.rest_of(chunk) for chunk in chunks]
    replay.finish()
    return [chunk for chunk in rest if isinstance(chunk, Chunk)]


def texts_of(chunks: list[Chunk]) -> dict[int, str]:
    texts: defaultdict[int, str] = defaultdict(str)
    for chunk in chunks:
        if chunk.text:
            texts[chunk.index] += chunk.text
    return dict(texts)


cuttings = st.lists(st.integers(1, 7), max_size=20)


def cut(text: str, sizes: list[int], index: int) -> list[Chunk]:
    chunks = []
    for size in sizes:
        if text[:size]:
            chunks.append(Chunk(text[:size], index=index))
        text = text[size:]
    return [*chunks, *([Chunk(text, index=index)] if text else []), Chunk(finish_reason=f"end{index}", index=index)]


@st.composite
def interleaved(draw: st.DrawFn, texts: dict[int, str]) -> list[Chunk]:
    queues = [cut(text, draw(cuttings), index) for index, text in texts.items()]
    order = draw(st.permutations([number for number, queue in enumerate(queues) for _ in queue]))
    return [queues[number].pop(0) for number in order]


@given(st.data(), st.dictionaries(st.integers(0, 2), st.text(), min_size=1))
def test_several_choices_cut_and_ordered_otherwise_are_each_whole_and_end_once(
    data: st.DataObject, texts: dict[int, str]
) -> None:
    first, again = data.draw(interleaved(texts)), data.draw(interleaved(texts))
    first = first[: data.draw(st.integers(0, len(first)))]

    whole = [*first, *repeat(had_by(first), again)]

    assert texts_of(whole) == {index: text for index, text in texts.items() if text}
    for index in texts.keys() - {0}:
        assert [chunk.finish_reason for chunk in whole if chunk.index == index and chunk.finish_reason] == [
            f"end{index}"
        ]


@given(st.lists(st.tuples(st.integers(0, 2), st.text()), max_size=20), st.integers(0, 20))
def test_foreign_chunks_come_once_each_though_ids_and_logprobs_differ(
    tokens: list[tuple[int, str]], kill_at: int
) -> None:
    first = [Chunk(payload=payload(index, text, 1)) for index, text in tokens][:kill_at]
    again = [Chunk(payload=payload(index, text, 2)) for index, text in tokens]

    assert repeat(had_by(first), again) == again[len(first) :]


@given(st.lists(st.text(max_size=3), min_size=1, max_size=12), st.integers(0, 12))
def test_logprobs_come_once_for_each_token(tokens: list[str], kill_at: int) -> None:
    chunks = [Chunk(token, logprobs=b"[%d]" % number) for number, token in enumerate(tokens)]
    first = chunks[:kill_at]

    whole = first + repeat(had_by(first), chunks)

    assert [chunk.logprobs for chunk in whole if chunk.logprobs is not None] == [chunk.logprobs for chunk in chunks]
    assert "".join(chunk.text for chunk in whole) == "".join(tokens)


def test_tool_calls_are_compared_without_the_id_that_each_generation_makes_up() -> None:
    def call(name: str, generation: int) -> Chunk:
        calls = [{"index": 0, "id": f"call{generation}", "function": {"name": name}}]
        return Chunk(payload=payload(0, "", generation, tool_calls=calls))

    had = had_by([call("look", 1)])
    rest = [call("look", 2), Chunk(payload=payload(0, "", 2, tool_calls=[{"index": 0}]))]
    assert repeat(had, rest) == rest[1:]
    with pytest.raises(Diverged, match="within"):
        repeat(had, [call("leap", 2)])


def test_another_choice_that_differs_is_found() -> None:
    had = had_by([Chunk("abc", index=1)])
    with pytest.raises(Diverged, match="after 1 characters"):
        repeat(had, [Chunk("axc", index=1)])
    with pytest.raises(Diverged, match="ended after 2 characters"):
        repeat(had, [Chunk("ab", index=1)])


def test_after_a_move_foreign_chunks_keep_the_id_and_the_time_of_the_first() -> None:
    writer = EventWriter(CHAT, "m", include_usage=False)
    untouched = payload(0, "a", 1)
    sent = writer.encode([Piece(1, 1, 0, payload=untouched), Piece(1, 2, 1, payload=payload(0, "b", 2))])

    first, second = [event.removeprefix(b"data: ") for event in sent.split(b"\n\n")[:2]]
    assert first == untouched
    chunk = msgspec.json.decode(second)
    assert (chunk["id"], chunk["created"]) == ("g1", 1)
    assert chunk["choices"][0]["delta"]["content"] == "b"


def test_a_reason_of_the_end_that_the_engine_says_apart_from_its_chunks_is_told_under_their_id() -> None:
    writer = EventWriter(CHAT, "m", include_usage=False)
    writer.encode([Piece(1, 1, 0, payload=payload(0, "a", 1))])
    last = msgspec.json.decode(writer.encode([End(1, 1, 1, "tool_calls")]).split(b"\n\n")[0].removeprefix(b"data: "))

    assert (last["id"], last["choices"][0]["finish_reason"]) == ("g1", "tool_calls")


def test_a_whole_answer_has_the_text_between_foreign_chunks_the_first_id_the_reason_and_the_counts() -> None:
    call = payload(0, "", 2, tool_calls=[{"index": 0, "function": {"name": "look"}}])
    items: list[str | Piece | End] = [
        Piece(1, 1, 0, payload=payload(0, "I ", 1)),
        "look.",
        Piece(1, 2, 2, payload=call),
    ]
    answer = msgspec.json.decode(assemble(CHAT, "m", [*items, End(1, 2, 3, "tool_calls", Usage(3, 4))]))

    [choice] = answer["choices"]
    assert (answer["id"], answer["created"], answer["usage"]["completion_tokens"]) == ("g1", 1, 4)
    assert choice["message"]["content"] == "I look."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "look"
    assert choice["finish_reason"] == "tool_calls"
