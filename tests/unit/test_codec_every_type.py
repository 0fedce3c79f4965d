"""Every type of message and frame, with any content, comes out of the codec as it went in."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_wire import codec
from broker_wire.errors import GarbageError
from broker_wire.messages import (
    Batch,
    ControlMessage,
    FleetMessage,
    Frame,
    Generate,
    KeptMessage,
    Load,
    ModelCard,
    Record,
    Usage,
)

LARGEST = 2**64 - 1
"""msgpack has integers of 64 bits, with or without a sign."""
DECODERS: dict[Any, Any] = {Generate: codec.decode_request, Batch: codec.decode_reply}
DECODERS |= dict.fromkeys(get_args(FleetMessage), codec.decode_fleet)
DECODERS |= dict.fromkeys(get_args(ControlMessage), codec.decode_control)
DECODERS |= dict.fromkeys(get_args(KeptMessage), codec.decode_kept)

integers = st.integers(-(2**63), LARGEST)
numbers = st.floats(allow_nan=False)
# A text with half a surrogate pair is no UTF-8, and no message: it is refused where it is made.
texts = st.text(st.characters(codec="utf-8"), max_size=20)
st.register_type_strategy(int, integers)
st.register_type_strategy(float, numbers)
st.register_type_strategy(str, texts)


def _any(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any value of a struct, all its fields filled in."""
    hints = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    return st.builds(kind, **{name: st.from_type(hint) for name, hint in hints.items()})


for part in (ModelCard, Load, Usage, *get_args(Frame), *get_args(Record)):
    st.register_type_strategy(part, _any(part))


@pytest.mark.parametrize("kind", DECODERS, ids=codec.type_of)
@given(data=st.data())
def test_any_message_comes_out_as_it_went_in(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(_any(kind))
    assert DECODERS[kind](codec.encode(message), codec.CONTENT_TYPE) == message


@pytest.mark.parametrize("kind", get_args(Frame), ids=codec.type_of)
@given(data=st.data())
def test_any_frame_comes_out_as_it_went_in(kind: type[Any], data: st.DataObject) -> None:
    batch = Batch("i", [data.draw(_any(kind))])
    assert codec.decode_reply(codec.encode(batch), codec.CONTENT_TYPE) == batch


@pytest.mark.parametrize("kind", DECODERS, ids=codec.type_of)
@given(data=st.data())
def test_a_message_that_was_cut_or_changed_is_a_message_or_garbage(kind: type[Any], data: st.DataObject) -> None:
    body = bytearray(codec.encode(data.draw(_any(kind))))
    place = data.draw(st.integers(0, len(body) - 1))
    noise = data.draw(st.binary(max_size=4))
    body[place : place + data.draw(st.integers(0, len(body)))] = noise
    try:
        DECODERS[kind](bytes(body), codec.CONTENT_TYPE)
    except GarbageError:
        return
