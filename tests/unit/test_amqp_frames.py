"""Our bytes of the hot path against pika's: what one writes, the other reads."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import spec
from pika.frame import Header, Method, decode_frame

from broker_wire.amqp import frames

short = st.text(max_size=60)
maybe = st.none() | short
header_tables = st.none() | st.dictionaries(
    st.text(min_size=1, max_size=20), st.integers(0, 2**31 - 1) | short, max_size=3
)


def read(data: bytes) -> Any:
    consumed, frame = decode_frame(data)
    assert consumed == len(data)
    return frame


@given(short, short, st.booleans())
def test_pika_reads_our_publish(exchange: str, routing_key: str, mandatory: bool) -> None:
    method = read(frames.encode_publish(7, exchange, routing_key, mandatory)).method
    assert isinstance(method, spec.Basic.Publish)
    assert (method.exchange, method.routing_key, method.mandatory) == (exchange, routing_key, mandatory)
    assert method.immediate is False


@given(short, short, st.booleans(), header_tables, maybe, maybe, maybe, maybe, maybe)
def test_pika_reads_our_properties(
    content_type: str,
    kind: str,
    persistent: bool,
    headers: dict[str, Any] | None,
    correlation_id: str | None,
    reply_to: str | None,
    expiration: str | None,
    message_id: str | None,
    app_id: str | None,
) -> None:
    encoded = frames.encode_properties(
        content_type=content_type,
        type=kind,
        persistent=persistent,
        headers=headers,
        correlation_id=correlation_id,
        reply_to=reply_to,
        expiration=expiration,
        message_id=message_id,
        app_id=app_id,
    )
    properties = spec.BasicProperties()
    properties.decode(encoded)
    assert (properties.content_type, properties.type, properties.delivery_mode) == (content_type, kind, 1 + persistent)
    assert (properties.headers or None, properties.correlation_id) == (headers or None, correlation_id)
    assert (properties.reply_to, properties.expiration) == (reply_to, expiration)
    assert (properties.message_id, properties.app_id) == (message_id, app_id)


@given(maybe, maybe, header_tables, maybe, maybe, maybe, st.none() | st.integers(0, 2**60), maybe, maybe, maybe)
def test_we_read_the_properties_of_other_clients(
    content_type: str | None,
    content_encoding: str | None,
    headers: dict[str, Any] | None,
    correlation_id: str | None,
    reply_to: str | None,
    message_id: str | None,
    timestamp: int | None,
    kind: str | None,
    user_id: str | None,
    app_id: str | None,
) -> None:
    properties = spec.BasicProperties(
        content_type=content_type,
        content_encoding=content_encoding,
        headers=headers,
        delivery_mode=2,
        priority=3,
        correlation_id=correlation_id,
        reply_to=reply_to,
        expiration="5",
        message_id=message_id,
        timestamp=timestamp,
        type=kind,
        user_id=user_id,
        app_id=app_id,
        cluster_id="c",
    )
    size, read_properties = frames.decode_header(Header(1, 77, properties).marshal(), 7)
    assert size == 77
    assert read_properties == frames.Properties(
        kind, content_type, reply_to, correlation_id, message_id, headers, app_id
    )


@given(short, st.integers(1, 2**63 - 1), st.booleans(), short, short)
def test_we_read_a_deliver(consumer_tag: str, tag: int, redelivered: bool, exchange: str, routing_key: str) -> None:
    data = Method(3, spec.Basic.Deliver(consumer_tag, tag, redelivered, exchange, routing_key)).marshal()
    assert frames.decode_deliver(data, 11) == (consumer_tag, tag, redelivered, exchange, routing_key)


@given(st.integers(1, 2**63 - 1), st.booleans(), short, short, st.integers(0, 2**31))
def test_we_read_an_answer_to_a_get(tag: int, redelivered: bool, exchange: str, routing_key: str, left: int) -> None:
    data = Method(3, spec.Basic.GetOk(tag, redelivered, exchange, routing_key, left)).marshal()
    assert int.from_bytes(data[7:11]) == frames.GET_OK
    assert frames.decode_get_ok(data, 11) == ("", tag, redelivered, exchange, routing_key)


@pytest.mark.parametrize(
    ("number", "bits", "expected"),
    [
        (frames.ACK, 0, spec.Basic.Ack(9, False)),
        (frames.NACK, 2, spec.Basic.Nack(9, False, True)),
        (frames.NACK, 0, spec.Basic.Nack(9, False, False)),
        (frames.REJECT, 1, spec.Basic.Reject(9, True)),
        (frames.REJECT, 0, spec.Basic.Reject(9, False)),
    ],
)
def test_pika_reads_our_settlements(number: int, bits: int, expected: Any) -> None:
    assert read(frames.encode_settlement(3, number, 9, bits)).method == expected


@given(st.integers(0, 2**63 - 1), st.booleans())
def test_we_read_the_brokers_answers(tag: int, multiple: bool) -> None:
    assert frames.decode_answer(Method(1, spec.Basic.Ack(tag, multiple)).marshal(), 11) == (tag, multiple)
    assert frames.decode_answer(Method(1, spec.Basic.Nack(tag, multiple)).marshal(), 11) == (tag, multiple)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250])
def test_a_body_is_cut_into_frames_of_the_agreed_size(size: int) -> None:
    body = bytes(range(256))[:size]
    properties = spec.BasicProperties(type="t")
    encoded = b"".join(properties.encode())
    data = b"".join(frames.encode_content(5, encoded, body, 100))
    consumed, header = decode_frame(data)
    assert isinstance(header, Header)
    assert header.body_size == size
    pieces = []
    while consumed < len(data):
        step, frame = decode_frame(data[consumed:])
        pieces.append(frame.fragment)  # type: ignore[union-attr]
        consumed += step
    assert b"".join(pieces) == body
    assert [len(piece) for piece in pieces] == [min(100, size - at) for at in range(0, size, 100)]


def test_a_name_that_amqp_cannot_carry_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="255"):
        frames.encode_publish(1, "x", "k" * 256, False)


def test_headers_that_cannot_be_read_cost_the_headers_and_not_the_message() -> None:
    properties = spec.BasicProperties(headers={"k": 1}, message_id="m", type="t")
    data = Header(1, 3, properties).marshal().replace(b"\x01kI", b"\x01k?")
    size, read_properties = frames.decode_header(data, 7)
    assert (size, read_properties.headers, read_properties.message_id, read_properties.type) == (3, None, "m", "t")
