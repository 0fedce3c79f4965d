"""Bytes to messages and back; garbage, newer peers and other versions are told apart."""

from contextlib import nullcontext

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_wire import codec
from broker_wire.errors import GarbageError, IncompatibleError
from broker_wire.messages import (
    MAX_CONVERSATION_BYTES,
    Announce,
    Answered,
    Ask,
    Batch,
    Cancel,
    Done,
    End,
    Failed,
    FailureKind,
    Frame,
    Generate,
    GivenBack,
    Go,
    Gone,
    Goodbye,
    Heartbeat,
    Load,
    ModelCard,
    Obituary,
    Operation,
    Piece,
    Progress,
    Question,
    QuestionKind,
    Resend,
    RollCall,
    Started,
    Stop,
    Texts,
    UpstreamHeartbeat,
    UpstreamRegistration,
    Usage,
)

FLEET = [
    Announce("w", "i", first=True, models=(ModelCard("m", context_length=2048),), slots=4, made_queues=("m",)),
    Heartbeat("w", "i", Load(1, 2, 3)),
    Goodbye("w", "i", "drained"),
    Obituary("w", "i"),
    UpstreamHeartbeat("http://h:1", 3),
    UpstreamRegistration("http://h:1", True, ("m",)),
]
CONTROL = [
    RollCall("c"),
    Go("c", 1, 2, 3, "text", apart=2.0),
    Stop("c", 1, 2),
    Cancel("c", 1, 30.0),
    Done("c", (1, 2)),
    Resend("c", ((1, 2, 3),)),
    Question("c", 1, QuestionKind.COUNT_TOKENS, "m", 4.0, b"{}"),
]
FRAMES: list[Frame] = [
    Started(1, 1, "w", "i"),
    Ask(1, 1, "w", "i"),
    Texts(1, 1, 0, ["a", "", "ü"]),
    Piece(1, 1, 3, "x", payload=b"{}", index=1, replace_from=0, logprobs=b"[]", finish_reason="stop"),
    End(1, 1, 4, "length", Usage(5, 6), b"{}"),
    Failed(1, 1, 4, FailureKind.ENGINE, "boom"),
    Gone(1, 1),
    GivenBack(1, 1),
    Progress(1, 1),
    Answered(1, b"{}"),
    Answered(1, failure=FailureKind.ENGINE, message="boom"),
]


@pytest.mark.parametrize("message", FLEET, ids=codec.type_of)
def test_fleet_messages_survive_the_wire(message: msgspec.Struct) -> None:
    assert codec.decode_fleet(codec.encode(message), codec.CONTENT_TYPE) == message


@pytest.mark.parametrize("message", CONTROL, ids=codec.type_of)
def test_control_messages_survive_the_wire(message: msgspec.Struct) -> None:
    assert codec.decode_control(codec.encode(message), codec.CONTENT_TYPE) == message


def test_requests_survive_the_wire_with_their_body_untouched() -> None:
    request = Generate("c", 1, 1, "r", "m", Operation.CHAT, 600.0, b'{"a": \xc3\xbc}', pinned=True, ask_first=True)
    assert codec.decode_request(codec.encode(request), codec.CONTENT_TYPE) == request


def test_a_batch_carries_every_kind_of_frame() -> None:
    batch = Batch("i", list(FRAMES))
    assert codec.decode_reply(codec.encode(batch), codec.CONTENT_TYPE) == batch


def test_a_newer_peer_may_add_fields() -> None:
    newer = msgspec.msgpack.encode({"t": "goodbye", "worker": "w", "instance": "i", "mood": "fine"})
    assert codec.decode_fleet(newer, codec.CONTENT_TYPE) == Goodbye("w", "i")
    frame = msgspec.msgpack.encode({"t": "batch", "instance": "i", "frames": [["k", 1, 1, "news"]]})
    assert codec.decode_reply(frame, codec.CONTENT_TYPE) == Batch("i", [Progress(1, 1)])


def test_a_conversation_template_that_is_too_long_is_no_announce() -> None:
    for size in (MAX_CONVERSATION_BYTES, MAX_CONVERSATION_BYTES + 1):
        announce = codec.encode(Announce("w", "i", models=(ModelCard("m", conversation=b"x" * size),)))
        with pytest.raises(GarbageError) if size > MAX_CONVERSATION_BYTES else nullcontext():
            codec.decode_fleet(announce, codec.CONTENT_TYPE)


def test_another_major_version_is_named() -> None:
    with pytest.raises(IncompatibleError) as caught:
        codec.decode_fleet(b"\x80", codec.CONTENT_TYPE.replace("v1", "v2"))
    assert caught.value.version == "2"


def test_a_worker_of_another_version_can_still_be_named() -> None:
    strange = msgspec.msgpack.encode({"t": "announce", "worker": "w", "instance": "i", "protocol": "2.0", "x": 1})
    assert codec.recognise_stranger(strange, "announce") == codec.Stranger("w", "i", "2.0")
    assert codec.recognise_stranger(codec.encode(FLEET[0]), "announce") == codec.Stranger("w", "i", "1.0")
    assert codec.recognise_stranger(strange, "heartbeat") is None
    assert codec.recognise_stranger(b"\xff", "announce") is None


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/vnd.broker-controller.vX+msgpack"])
def test_a_foreign_content_type_is_garbage(content_type: str | None) -> None:
    with pytest.raises(GarbageError) as caught:
        codec.decode_control(codec.encode(RollCall("c")), content_type)
    assert not isinstance(caught.value, IncompatibleError)


def test_a_message_of_the_wrong_exchange_is_garbage() -> None:
    with pytest.raises(GarbageError):
        codec.decode_control(codec.encode(Goodbye("w", "i")), codec.CONTENT_TYPE)


def test_deep_nesting_is_garbage_and_no_crash() -> None:
    with pytest.raises(GarbageError):
        codec.decode_fleet(b"\x91" * 100_000, codec.CONTENT_TYPE)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_garbage(body: bytes) -> None:
    for decode in (codec.decode_fleet, codec.decode_control, codec.decode_request, codec.decode_reply):
        try:
            decode(body, codec.CONTENT_TYPE)
        except GarbageError:
            continue


@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
def test_a_corrupted_message_is_a_message_or_garbage(position: int, noise: bytes) -> None:
    body = bytearray(codec.encode(Batch("i", list(FRAMES))))
    body[position : position + len(noise)] = noise
    try:
        codec.decode_reply(bytes(body), codec.CONTENT_TYPE)
    except GarbageError:
        return
