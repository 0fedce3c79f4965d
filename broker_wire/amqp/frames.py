"""The frames of the hot path, AMQP 0-9-1 bytes to values and back: publish, deliver, return, ack, and their properties.

pika makes and reads all other frames; for these its objects cost more than the rest of the path. Pure; `channel` is the
only caller. Layouts are from the specification, 2.3.5 (frames), 4.2.6 (content headers) and the class basic.
"""

from collections.abc import Iterator, Mapping
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812, it is an exception and reads as one
from typing import Any, NamedTuple

import pika.data  # type: ignore[import-untyped]
from pika.exceptions import AMQPError

tables: Any = pika.data  # no stubs

METHOD, HEADER, BODY = 1, 2, 3
FRAME_END = 0xCE
FRAME_OVERHEAD_BYTES = 8
"""Of each frame: type, channel and size before its payload, the end mark after it."""

# Method ids: class 60 (basic) in the upper 16 bits.
PUBLISH, RETURN, DELIVER, GET_OK = 0x3C0028, 0x3C0032, 0x3C003C, 0x3C0047
ACK, REJECT, NACK = 0x3C0050, 0x3C005A, 0x3C0078

_TRANSIENT, _PERSISTENT = b"\x01", b"\x02"

_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _CORRELATION_ID = 1 << 15, 1 << 13, 1 << 12, 1 << 10
_REPLY_TO, _EXPIRATION, _MESSAGE_ID, _TIMESTAMP, _TYPE = 1 << 9, 1 << 8, 1 << 7, 1 << 6, 1 << 5
_CONTENT_ENCODING, _PRIORITY, _USER_ID, _APP_ID = 1 << 14, 1 << 11, 1 << 4, 1 << 3

_frame = Layout(">BHI")
_method_start = Layout(">BHIIH")  # ... method id, and the reserved ticket of basic.publish
_header = Layout(">BHIHHQ")  # ... class id, weight, body size
_header_payload = Layout(">HHQH")  # class id, weight, body size, property flags
_flags = Layout(">H")
_deliver = Layout(">Q?B")  # delivery tag, redelivered, length of the exchange's name
_settle = Layout(">BHIIQBB")  # ... method id, delivery tag, bits, end of frame
_answer = Layout(">QB")  # delivery tag, bits


Deliver = tuple[str, int, bool, str, str]
"""Consumer tag ("" for an answer to basic.get), delivery tag, redelivered, exchange, routing key."""


class Properties(NamedTuple):
    """The properties of a message that we read."""

    type: str | None
    content_type: str | None
    reply_to: str | None
    correlation_id: str | None
    message_id: str | None
    headers: dict[str, Any] | None
    app_id: str | None


def encode_publish(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    """The method frame of basic.publish. Raises: ValueError for a name over 255 bytes."""
    names = _short(exchange) + _short(routing_key)
    # 7 bytes: method id, ticket, bits.
    return b"%b%b%c\xce" % (_method_start.pack(METHOD, channel, len(names) + 7, PUBLISH, 0), names, mandatory)


def encode_properties(
    *,
    content_type: str,
    type: str,  # noqa: A002, the property's name
    persistent: bool,
    headers: Mapping[str, Any] | None,
    correlation_id: str | None,
    reply_to: str | None,
    expiration: str | None,
    message_id: str | None,
    app_id: str | None,
) -> bytes:
    """Property flags and values. Raises: ValueError for a text over 255 bytes or a header that AMQP cannot carry."""
    flags = _CONTENT_TYPE | _DELIVERY_MODE | _TYPE
    pieces = [_short(content_type)]
    if headers:
        flags |= _HEADERS
        _encode_table(pieces, headers)
    pieces.append(_PERSISTENT if persistent else _TRANSIENT)
    if correlation_id is not None:
        flags |= _CORRELATION_ID
        pieces.append(_short(correlation_id))
    if reply_to is not None:
        flags |= _REPLY_TO
        pieces.append(_short(reply_to))
    if expiration is not None:
        flags |= _EXPIRATION
        pieces.append(_short(expiration))
    if message_id is not None:
        flags |= _MESSAGE_ID
        pieces.append(_short(message_id))
    pieces.append(_short(type))
    if app_id is not None:
        flags |= _APP_ID
        pieces.append(_short(app_id))
    return _flags.pack(flags) + b"".join(pieces)


def encode_content(channel: int, properties: bytes, body: bytes, body_max: int) -> Iterator[bytes | memoryview]:
    """Header and body frames in pieces to be joined; `body_max` is the payload of one body frame, in bytes."""
    size = len(body)
    # 12 bytes: class id, weight, body size.
    yield _header.pack(HEADER, channel, len(properties) + 12, 60, 0, size)
    yield properties
    yield b"\xce"
    if size <= body_max:
        if size:
            yield _frame.pack(BODY, channel, size)
            yield body
            yield b"\xce"
        return
    view = memoryview(body)
    for start in range(0, size, body_max):
        piece = view[start : start + body_max]
        yield _frame.pack(BODY, channel, len(piece))
        yield piece
        yield b"\xce"


def encode_settlement(channel: int, method: int, tag: int, bits: int) -> bytes:
    """basic.ack, basic.nack and basic.reject, which differ in their number and their bits only."""
    # 13 bytes: method id, delivery tag, bits.
    return _settle.pack(METHOD, channel, 13, method, tag, bits, FRAME_END)


def decode_answer(data: bytes, at: int) -> tuple[int, bool]:
    """basic.ack and basic.nack from the broker: delivery tag, multiple."""
    tag, bits = _answer.unpack_from(data, at)
    return tag, bool(bits & 1)


def decode_deliver(data: bytes, at: int) -> Deliver:
    """basic.deliver."""
    size = data[at]
    at += 1
    consumer_tag = str(data[at : at + size], "utf-8", "replace")
    return consumer_tag, *_decode_origin(data, at + size)


def decode_get_ok(data: bytes, at: int) -> Deliver:
    """basic.get-ok, without the number of messages that are left."""
    return "", *_decode_origin(data, at)


def _decode_origin(data: bytes, at: int) -> tuple[int, bool, str, str]:
    tag, redelivered, size = _deliver.unpack_from(data, at)
    at += 10
    exchange = str(data[at : at + size], "utf-8", "replace")
    at += size
    routing_key = str(data[at + 1 : at + 1 + data[at]], "utf-8", "replace")
    return tag, redelivered, exchange, routing_key


def decode_header(data: bytes, at: int) -> tuple[int, Properties]:
    """A content header: the body's size in bytes, and the properties."""
    _, _, size, flags = _header_payload.unpack_from(data, at)
    at += 14
    content_type = correlation_id = reply_to = message_id = kind = app_id = headers = None
    if flags & _CONTENT_TYPE:
        content_type, at = _read_short(data, at)
    if flags & _CONTENT_ENCODING:
        at += 1 + data[at]
    if flags & _HEADERS:
        headers, at = _read_table(data, at)
    if flags & _DELIVERY_MODE:
        at += 1
    if flags & _PRIORITY:
        at += 1
    if flags & _CORRELATION_ID:
        correlation_id, at = _read_short(data, at)
    if flags & _REPLY_TO:
        reply_to, at = _read_short(data, at)
    if flags & _EXPIRATION:
        at += 1 + data[at]
    if flags & _MESSAGE_ID:
        message_id, at = _read_short(data, at)
    if flags & _TIMESTAMP:
        at += 8
    if flags & _TYPE:
        kind, at = _read_short(data, at)
    if flags & _USER_ID:
        at += 1 + data[at]
    if flags & _APP_ID:
        app_id, at = _read_short(data, at)
    return size, Properties(kind, content_type, reply_to, correlation_id, message_id, headers, app_id)


def _short(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 255:
        raise ValueError(f"{text[:40]!r}... has {len(raw)} bytes, AMQP carries 255 at most")
    return b"%c%b" % (len(raw), raw)


def _read_short(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return str(data[at + 1 : end], "utf-8", "replace"), end


def _encode_table(pieces: list[bytes], table: Mapping[str, Any]) -> None:
    try:
        tables.encode_table(pieces, dict(table))
    except (AMQPError, LayoutError, TypeError, ValueError) as error:
        raise ValueError(f"headers that AMQP cannot carry: {error}") from error


def _read_table(data: bytes, at: int) -> tuple[dict[str, Any] | None, int]:
    end = at + 4 + int.from_bytes(data[at : at + 4])
    try:
        return tables.decode_table(data, at)[0], end
    except (AMQPError, LayoutError, ValueError, IndexError, OverflowError, RecursionError):
        # Some client's field type that pika does not know: the message is read without its headers.
        return None, end
