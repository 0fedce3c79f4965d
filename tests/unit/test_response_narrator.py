"""A chat's answer as a response's events: the text is whole, the numbers have no holes, any position will do."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker_controller.errors import WorkerLostError
from broker_controller.responses.narrator import Event, Narrator
from broker_controller.responses.records import last_of
from broker_controller.responses.request import check
from broker_controller.responses.shelf import Kept, Reading
from broker_wire.messages import Begun, Created, End, Ended, Piece, Said, Usage
from tests.unit.test_response_request import _read

END = End(1, 1, 99)


def fields_of(**fields: Any) -> dict[str, Any]:
    return check(_read(json.dumps({"model": "m", "input": "hi"} | fields).encode()), "resp_1").fields


def narrator(**fields: Any) -> Narrator:
    return Narrator("resp_1", 1700000000.5, fields_of(**fields))


def tell(*items: str | Piece | End, **fields: Any) -> list[Event]:
    one = narrator(**fields)
    return [*one.created(), *one.begun(), *one.tell(items)]


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> Piece:
    payload = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} | more
    return Piece(1, 1, 0, payload=json.dumps(payload).encode())


def call(index: int, arguments: str, **first: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": first["name"]} if first else {})
    return {"index": index, "function": function} | ({"id": first["id"], "type": "function"} if first else {})


def kinds(events: list[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if "content" in item for part in item["content"])


def test_a_text_is_these_events() -> None:
    events = tell("a", "b", End(1, 1, 9, usage=Usage(3, 2)))
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[2]["item"]["content"] == []
    assert events[6]["text"] == "ab"
    response = events[-1]["response"]
    assert (response["status"], text_of(response)) == ("completed", "ab")
    assert response["usage"]["input_tokens"] == 3
    assert response["usage"]["total_tokens"] == 5
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["status"] == "in_progress"


def test_logprobs_are_told_with_their_text_and_all_of_them_with_the_whole() -> None:
    first, second = ({"token": token, "logprob": -0.5, "top_logprobs": []} for token in "ab")
    own = {"index": 0, "delta": {"content": "b"}, "logprobs": {"content": [second]}}
    events = tell(
        Piece(1, 1, 0, "a", logprobs=json.dumps({"content": [first]}).encode()),
        Piece(1, 1, 1, payload=json.dumps({"choices": [own]}).encode()),
        Piece(1, 1, 2, "c", logprobs=b'{"tokens": ["c"]}'),
        END,
    )
    deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert deltas == [[first], [second], []]
    assert next(event for event in events if event["type"] == "response.output_text.done")["logprobs"] == [
        first,
        second,
    ]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == [first, second]


def test_logprobs_that_are_no_json_fail_the_response() -> None:
    events = tell(Piece(1, 1, 0, "a", logprobs=b"{"), END)
    assert kinds(events)[-1] == "failed"


def test_what_was_for_the_engine_alone_is_not_repeated() -> None:
    fields = check(_read(b'{"model": "m", "input": "hi", "top_k": 3}'), "resp_1", {"top_k": 3}).fields
    response = Narrator("resp_1", 1.0, fields).snapshot()
    assert (response["top_logprobs"], response["prompt_cache_key"]) == (None, None)
    assert not {"engines_own", "top_k"} & response.keys()


def test_in_the_background_it_is_queued_before() -> None:
    one = narrator(background=True)
    assert kinds(one.created()) == ["created", "queued"]
    assert one.snapshot()["status"] == "queued"
    assert kinds(one.begun()) == ["in_progress"]
    assert one.begun() == []
    assert one.snapshot()["status"] == "in_progress"


def test_an_answer_that_was_cut_by_its_length_is_incomplete() -> None:
    events = tell("a", End(1, 1, 9, "length"))
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


def test_calls_of_functions_in_an_engines_own_chunks() -> None:
    events = tell(
        chunk({"role": "assistant", "content": None}),
        chunk({"tool_calls": [call(0, "", id="call_a", name="f")]}),
        chunk({"tool_calls": [call(0, '{"x"')]}),
        chunk({"tool_calls": [call(1, "{}", id="call_b", name="g")]}),
        chunk({"tool_calls": [call(0, ": 1}")]}),
        chunk({}, "tool_calls"),
        chunk({}, usage={"prompt_tokens": 7, "completion_tokens": 8}, choices=[]),
        END,
    )
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.completed"
    assert [(item["call_id"], item["name"], item["arguments"]) for item in response["output"]] == [
        ("call_a", "f", '{"x": 1}'),
        ("call_b", "g", "{}"),
    ]
    deltas = [event for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert [(event["output_index"], event["delta"]) for event in deltas] == [(0, '{"x"'), (1, "{}"), (0, ": 1}")]
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert [event["arguments"] for event in done] == ['{"x": 1}', "{}"]
    assert response["usage"]["output_tokens"] == 8


def test_a_whole_answer_is_a_response_too() -> None:
    whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "all"}, "finish_reason": "length"}]}
    events = tell(End(1, 1, 9, result=json.dumps(whole).encode()))
    assert text_of(events[-1]["response"]) == "all"
    assert events[-1]["type"] == "response.incomplete"


def test_chunks_that_cannot_be_read_end_as_a_failure() -> None:
    for payload in (b"{", b"[1]", b'{"choices": [{"delta": {"content": 5}}]}', b'{"choices": [5]}'):
        events = tell("a", Piece(1, 1, 1, payload=payload), END)
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["error"]["code"] == "engine_error"


def test_a_failure_keeps_what_was_said() -> None:
    one = narrator()
    events = [*one.created(), *one.begun(), *one.tell(["a", "b"]), *one.fail(WorkerLostError("it died"))]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response = events[-1]["response"]
    assert (response["status"], response["error"]["code"], text_of(response)) == ("failed", "worker_lost", "ab")
    assert response["output"][0]["status"] == "incomplete"


def test_other_choices_are_left_out() -> None:
    events = tell(Piece(1, 1, 0, "a"), Piece(1, 1, 1, "x", index=1), Piece(1, 1, 2, "b", finish_reason="length"), END)
    assert text_of(events[-1]["response"]) == "ab"
    assert events[-1]["type"] == "response.incomplete"


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
pieces = st.one_of(
    texts,
    st.builds(lambda text: Piece(1, 1, 0, text), texts),
    st.builds(lambda text: chunk({"content": text}), texts),
    st.builds(lambda index, text: chunk({"tool_calls": [call(index, text)]}), st.integers(0, 2), texts),
)
answers = st.lists(pieces, max_size=12)


def said(item: str | Piece) -> str:
    if isinstance(item, str):
        return item
    if item.payload is None:
        return item.text
    text: str = json.loads(item.payload)["choices"][0]["delta"].get("content", "")
    return text


@given(answer=answers, ended=st.booleans())
def test_whatever_the_chunks_the_text_is_whole_and_the_numbers_have_no_holes(
    answer: list[str | Piece], ended: bool
) -> None:
    one = narrator()
    events = [*one.created(), *one.begun(), *one.tell(answer)]
    events += one.tell([END]) if ended else one.end_as("cancelled")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert deltas == "".join(map(said, answer)) == text_of(events[-1]["response"])
    places = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert places == list(range(len(events[-1]["response"]["output"])))


@given(answer=answers, data=st.data(), ended=st.sampled_from(["end", "failed", "cancelled"]))
def test_whoever_reads_from_any_position_in_any_steps_reads_exactly_the_rest(
    answer: list[str | Piece], data: st.DataObject, ended: str
) -> None:
    created = Created("resp_1", 1.0, True, json.dumps(fields_of(background=True)).encode(), b"[]", 600.0)
    end = END if ended == "end" else WorkerLostError("it died") if ended == "failed" else None
    records: list[Begun | Said | Ended] = [
        Begun("resp_1", 1),
        Said("resp_1", 1, 0, answer),
        last_of("resp_1", end, 2.0),
    ]
    whole = Kept(created)
    for record in records:
        whole.apply(record, "c")
    events = Reading(whole).news()

    growing = Kept(created)
    reading = Reading(growing)
    seen = reading.news()
    growing.apply(records[0], "c")
    start = 0
    while start < len(answer):
        step = data.draw(st.integers(1, len(answer) - start))
        growing._add(start, answer[start : start + step])
        seen += reading.news()
        start += step
    growing.apply(records[-1], "c")
    seen += reading.news()
    assert seen == events
    assert reading.over
    after = data.draw(st.integers(-1, len(events)))
    assert [event for event in Reading(growing).news() if event["sequence_number"] > after] == events[after + 1 :]
