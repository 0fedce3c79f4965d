"""What people's functions yield besides deltas: OpenAI's chunks and cumulative text."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from broker_wire.messages import FailureKind, Operation
from tests.unit.engine_runs import answer, had_after, yields
from tests.unit.fake_stream import PATIENCE, FakeStream, assignment
from workers_shim import Worker
from workers_shim.execution import EngineExecutor
from workers_shim.request import Chunk, Request, Usage

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CHUNKS: list[dict[str, Any]] = [
    {"id": "x", "choices": [{"index": 0, "delta": {"role": "assistant"}}]},
    {"id": "x", "choices": [{"index": 0, "delta": {"content": "one"}, "finish_reason": None}], "new_field": 1},
    {"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
    {"id": "x", "choices": [], "usage": USAGE},
]
CHAT = b'{"messages": [{"role": "user", "content": "hi"}], "stream": true}'
CHAT_WITH_USAGE = CHAT[:-1] + b', "stream_options": {"include_usage": true}}'


class Pydantic:
    """As objects of `openai.types` are: iterable, and no mapping."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def model_dump_json(self, *, exclude_unset: bool) -> str:
        assert exclude_unset
        return json.dumps(self._fields)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._fields.items())


class OtherObject:
    def to_json(self) -> str:
        return json.dumps(CHUNKS[1], indent=2)


@pytest.fixture
async def executor() -> AsyncIterator[EngineExecutor]:
    executor = EngineExecutor()
    yield executor
    assert await executor.aclose(PATIENCE)


async def chunks_of(executor: EngineExecutor, items: Any, body: bytes = CHAT, **how: Any) -> FakeStream:
    given = assignment(body=body, operation=Operation.CHAT)
    return await answer(executor, yields(items), given=given, yields="chunks", **how)


def payloads(stream: FakeStream) -> list[Any]:
    return [json.loads(item.payload or b"") for item in stream.items if isinstance(item, Chunk)]


async def test_openais_chunks_reach_the_client_as_they_are_and_are_read_for_their_end(executor: EngineExecutor) -> None:
    stream = await chunks_of(executor, CHUNKS)

    assert payloads(stream) == CHUNKS[:3], "the usage is for clients that ask for it"
    assert stream.text == "one", "for clients of LLaVA's protocol"
    assert stream.last_words == [("end", "length", Usage(3, 2))]


async def test_a_client_that_asks_for_the_usage_has_the_engines_own_chunk_of_it(executor: EngineExecutor) -> None:
    stream = await chunks_of(executor, CHUNKS, CHAT_WITH_USAGE)

    assert payloads(stream) == CHUNKS


@pytest.mark.parametrize(
    "item",
    [
        json.dumps(CHUNKS[1]),
        json.dumps(CHUNKS[1]).encode(),
        f": comment\n\ndata: {json.dumps(CHUNKS[1])}\n\ndata: [DONE]\n\n",
        Pydantic(CHUNKS[1]),
        OtherObject(),
    ],
    ids=["text", "bytes", "events", "model_dump_json", "to_json"],
)
async def test_a_chunk_may_be_had_in_any_form(executor: EngineExecutor, item: object) -> None:
    stream = await chunks_of(executor, [item])

    assert payloads(stream) == [CHUNKS[1]]


async def test_json_is_not_written_anew(executor: EngineExecutor) -> None:
    as_it_is = b'{ "choices":[{"index":0,"delta":{"content":"\\u00e4"}}] }'
    stream = await chunks_of(executor, [as_it_is])

    [item] = stream.items
    assert isinstance(item, Chunk)
    assert item.payload == as_it_is
    assert item.text == "ä"


async def test_signs_of_life_and_chunks_of_ours_pass(executor: EngineExecutor) -> None:
    stream = await chunks_of(executor, ["", *CHUNKS[:2], Chunk(finish_reason="stop", usage=Usage(1, 1))])

    assert stream.progress_calls == 2
    assert stream.last_words == [("end", "stop", Usage(1, 1))]


async def test_of_several_choices_the_text_of_the_first_counts(executor: EngineExecutor) -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "two"}, "finish_reason": "length"}]}
    stream = await chunks_of(executor, [CHUNKS[1], other])

    assert stream.text == "one"
    assert payloads(stream) == [CHUNKS[1], other]
    assert stream.last_words == [("end", "stop", None)]


@pytest.mark.parametrize(
    ("item", "kind", "words"),
    [
        ({"error": {"message": "too long", "code": 400}}, FailureKind.REQUEST, "too long"),
        ({"error": {"message": "broken", "code": 500}}, FailureKind.ENGINE, "broken"),
        ({"error": "broken"}, FailureKind.ENGINE, "broken"),
        ("{not json", FailureKind.ENGINE, "no chunk of OpenAI's"),
        (object(), FailureKind.ENGINE, "TypeError"),
    ],
)
async def test_an_error_in_place_of_a_chunk_ends_the_answer(
    executor: EngineExecutor, item: object, kind: FailureKind, words: str
) -> None:
    stream = await chunks_of(executor, [item])

    assert stream.failure[0] is kind
    assert words in stream.failure[1]


@pytest.mark.parametrize("whole", [{"object": "list", "data": []}, Pydantic({"object": "list", "data": []})])
async def test_a_whole_answer_may_be_returned(executor: EngineExecutor, whole: object) -> None:
    given = assignment(body=b'{"input": "x"}', operation=Operation.EMBEDDING)
    stream = await answer(executor, lambda _: whole, given=given, yields="chunks", streams=False)

    assert payloads(stream) == [{"object": "list", "data": []}]


async def test_the_text_of_a_whole_chat_is_read_for_clients_that_get_text(executor: EngineExecutor) -> None:
    message = {"index": 0, "message": {"role": "assistant", "content": "one two"}, "finish_reason": "stop"}
    whole = {"choices": [message], "usage": {"prompt_tokens": 3, "completion_tokens": None, "total_tokens": 3}}
    given = assignment(body=b'{"prompt": "x"}', operation=Operation.LLAVA)

    stream = await answer(executor, lambda _: whole, given=given, yields="chunks", streams=False)

    assert stream.text == "one two"
    assert stream.last_words == [("end", "stop", Usage(3, 0))]


async def test_asynchronous_chunks_are_converted_and_their_source_is_closed(executor: EngineExecutor) -> None:
    closed: list[bool] = []

    class AsyncStream:
        """As openai.AsyncStream is."""

        def __init__(self) -> None:
            self._items = iter(CHUNKS)

        def __aiter__(self) -> "AsyncStream":
            return self

        async def __anext__(self) -> object:
            try:
                return next(self._items)
            except StopIteration:
                raise StopAsyncIteration from None

        async def close(self) -> None:
            closed.append(True)

    given = assignment(body=CHAT, operation=Operation.CHAT)
    stream = await answer(executor, lambda _: AsyncStream(), given=given, yields="chunks", shared_loop=True)

    assert payloads(stream) == CHUNKS[:3]
    assert closed == [True]


async def test_repeated_chunks_go_on_where_the_client_stopped(executor: EngineExecutor) -> None:
    had = had_after([Chunk(payload=json.dumps(chunk).encode()) for chunk in CHUNKS[:2]])
    again = [chunk | {"id": "y"} for chunk in CHUNKS]
    given = assignment(body=CHAT, operation=Operation.CHAT, choices=had.choices)
    stream = await answer(executor, yields(again), given=given, yields="chunks", resume="replay")

    assert payloads(stream) == [again[2]]
    assert stream.last_words == [("end", "length", Usage(3, 2))]


async def cumulative(
    executor: EngineExecutor, items: Any, *, body: bytes = b'{"prompt": "Q:"}', **how: Any
) -> FakeStream:
    how = {"yields": "cumulative"} | how
    return await answer(executor, yields(items), given=assignment(body=body), **how)


async def test_of_the_text_so_far_only_what_is_new_is_sent(executor: EngineExecutor) -> None:
    stream = await cumulative(executor, ["one", "one two", "", "one two", "one two three"])

    assert stream.items == ["one", " two", " three"]
    assert stream.last_words == [("end", "stop", None)]


async def test_a_text_that_begins_like_its_prompt_is_whole(executor: EngineExecutor) -> None:
    stream = await cumulative(executor, ["Q:", "Q: one"])

    assert stream.text == "Q: one"


async def test_the_prompt_in_front_is_taken_off(executor: EngineExecutor) -> None:
    stream = await cumulative(executor, ["Q:", "Q: one", "Q: one two"], yields="cumulative-after-prompt")

    assert stream.text == " one two"


async def test_the_prompt_that_a_function_makes_of_a_chat_is_taken_off(executor: EngineExecutor) -> None:
    def generate(request: Request) -> Iterator[str]:
        request.prompt = f"USER: {request.messages}"
        yield request.prompt + " one"

    given = assignment(body=CHAT, operation=Operation.CHAT)
    stream = await answer(executor, generate, given=given, yields="cumulative-after-prompt")

    assert stream.text == " one"


async def test_llavas_and_fastchats_objects_are_read(executor: EngineExecutor) -> None:
    lines = [json.dumps({"text": text, "error_code": 0}).encode() + b"\0" for text in ("Q:a", "Q:a b")]
    last = {"text": "Q:a b c", "error_code": 0, "usage": USAGE, "finish_reason": "length"}
    stream = await cumulative(executor, [lines[0] + lines[1], last], yields="cumulative-after-prompt")

    assert stream.text == "a b c"
    assert stream.last_words == [("end", "length", Usage(3, 2))]


async def test_a_stop_string_that_is_cut_off_is_not_shown_in_part(executor: EngineExecutor) -> None:
    stream = await cumulative(executor, ["one #", "one ##", "one "], body=b'{"prompt": "Q:", "stop": "###"}')

    assert stream.items == ["one "]


async def test_a_text_that_shrinks_is_replaced(executor: EngineExecutor) -> None:
    stream = await cumulative(executor, ["one two", "one three"])

    assert stream.items[1] == Chunk("hree", replace_from=5)


@pytest.mark.parametrize(
    ("code", "kind"), [(1, FailureKind.ENGINE), (50001, FailureKind.ENGINE), (40303, FailureKind.REQUEST)]
)
async def test_an_error_code_ends_the_answer(executor: EngineExecutor, code: int, kind: FailureKind) -> None:
    stream = await cumulative(executor, [{"text": "the tensor is too small", "error_code": code}])

    assert stream.failure[0] is kind
    assert "the tensor is too small" in stream.failure[1]


@pytest.mark.parametrize("item", [b"no object\0", 7])
async def test_what_is_neither_is_said(executor: EngineExecutor, item: object) -> None:
    stream = await cumulative(executor, [item])

    assert stream.failure[0] is FailureKind.ENGINE


def test_a_shape_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="'deltas', 'chunks', 'cumulative'"):
        Worker().add_model("m", yields([]), yields="tokens")
