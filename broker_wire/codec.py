"""Bytes to messages and back, and the difference between garbage and what is only newer.

The content type names the major version, so a message of another one is recognised without being decoded. Everything
that is no message of ours raises `GarbageError`; whoever consumes counts and drops it (`garbage`).
"""

from typing import TypeVar

import msgspec

from broker_wire.errors import GarbageError, IncompatibleError
from broker_wire.messages import (
    PROTOCOL_MAJOR,
    Announce,
    ControlMessage,
    FleetMessage,
    KeptMessage,
    ReplyMessage,
    RequestMessage,
)

_CONTENT_TYPE_PREFIX = "application/vnd.broker-controller.v"
_CONTENT_TYPE_SUFFIX = "+msgpack"
CONTENT_TYPE = f"{_CONTENT_TYPE_PREFIX}{PROTOCOL_MAJOR}{_CONTENT_TYPE_SUFFIX}"

M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()
_fleet: msgspec.msgpack.Decoder[FleetMessage] = msgspec.msgpack.Decoder(FleetMessage)
_request: msgspec.msgpack.Decoder[RequestMessage] = msgspec.msgpack.Decoder(RequestMessage)
_control: msgspec.msgpack.Decoder[ControlMessage] = msgspec.msgpack.Decoder(ControlMessage)
_kept: msgspec.msgpack.Decoder[KeptMessage] = msgspec.msgpack.Decoder(KeptMessage)
_reply: msgspec.msgpack.Decoder[ReplyMessage] = msgspec.msgpack.Decoder(ReplyMessage)


class Stranger(msgspec.Struct, frozen=True):
    """The fields of an `Announce` that every version has: enough to name a worker that we cannot talk to."""

    worker: str
    instance: str
    protocol: str


_stranger = msgspec.msgpack.Decoder(Stranger)

encode = _encoder.encode
"""Any message to bytes."""


def type_of(message: msgspec.Struct | type[msgspec.Struct]) -> str:
    """The AMQP `type` property of a message, or of a type of message: its tag."""
    return str(message.__struct_config__.tag)


def decode_fleet(body: bytes, content_type: str | None) -> FleetMessage:
    """Raises: IncompatibleError, GarbageError."""
    return _decode(_fleet, body, content_type)


def decode_request(body: bytes, content_type: str | None) -> RequestMessage:
    """Raises: IncompatibleError, GarbageError."""
    return _decode(_request, body, content_type)


def decode_control(body: bytes, content_type: str | None) -> ControlMessage:
    """Raises: IncompatibleError, GarbageError."""
    return _decode(_control, body, content_type)


def decode_reply(body: bytes, content_type: str | None) -> ReplyMessage:
    """Raises: IncompatibleError, GarbageError."""
    return _decode(_reply, body, content_type)


def decode_kept(body: bytes, content_type: str | None) -> KeptMessage:
    """Raises: IncompatibleError, GarbageError."""
    return _decode(_kept, body, content_type)


def recognise_stranger(body: bytes, message_type: str | None) -> Stranger | None:
    """Who sent an announce of another major version, or None if it was something else."""
    if message_type != type_of(Announce):
        return None
    try:
        return _stranger.decode(body)
    except msgspec.MsgspecError:
        return None


def _decode(decoder: msgspec.msgpack.Decoder[M], body: bytes, content_type: str | None) -> M:
    if content_type != CONTENT_TYPE:
        _refuse_content_type(content_type)
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GarbageError(f"not a message of this protocol: {error}") from error


def _refuse_content_type(content_type: str | None) -> None:
    text = content_type or ""
    version = text.removeprefix(_CONTENT_TYPE_PREFIX).removesuffix(_CONTENT_TYPE_SUFFIX)
    if text.startswith(_CONTENT_TYPE_PREFIX) and version.isdecimal():
        raise IncompatibleError(version)
    raise GarbageError(f"content type {content_type!r} is not {CONTENT_TYPE}")
