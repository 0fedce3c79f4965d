"""Server-sent events: the data of each, byte for byte, however the stream is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers_shim.engines import sse
from workers_shim.engines.sse import EventParser, EventTooLargeError


def test_each_events_data_is_given_as_it_is() -> None:
    parser = EventParser()

    assert parser.feed(b'data: {"a": "  b"}\n\ndata:x\r\n\r\ndata: [DO') == [b'{"a": "  b"}', b"x"]
    assert parser.feed(b"NE]\n") == []
    assert parser.feed(b"\n") == [b"[DONE]"]


def test_what_has_no_data_is_no_event() -> None:
    assert EventParser().feed(b": ping\n\nevent: x\nid: 1\nretry: 5\n\n\n\ndata\n\n") == []


def test_the_lines_of_one_event_belong_together() -> None:
    assert EventParser().feed(b"event: e\ndata: a\ndata: b\n\n") == [b"a\nb"]


def test_an_event_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    parser = EventParser()
    for _ in range(20):
        parser.feed(b"data: many small events\n\n: and comments\n\n")
    parser.feed(b"data: the first line of one\n" * 3)
    with pytest.raises(EventTooLargeError):
        parser.feed(b"data: and its second\n" * 3)


@given(st.lists(st.binary(max_size=20).map(lambda data: data.translate(None, b"\r\n")), max_size=6), st.data())
def test_where_a_stream_is_cut_changes_nothing(events: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(b"data: %b\n\n" % event for event in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parser = EventParser()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:end])

    assert found == events
