"""What makes two chunks of an OpenAI-compatible engine the same in two generations of one answer. Pure.

A controller takes the digest of what a client has, a worker that of what is generated again: both have to read the
chunks alike. What differs between two equal generations, or is measured, is left out: ids, times, counts, logprobs.
"""

import hashlib
from typing import Any

import msgspec

NO_CHOICE = -1
"""The index of chunks that belong to no choice, or to several at once."""
_DIFFERS = frozenset({"id", "created", "system_fingerprint", "usage", "timings"})

_encode = msgspec.json.Encoder(order="sorted").encode


class Digest:
    """Of the chunks of one choice, in order."""

    __slots__ = ("_hash", "chunks")

    def __init__(self) -> None:
        self.chunks = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, comparable: bytes) -> None:
        """One more chunk, as `read_payload` gives it."""
        self.chunks += 1
        self._hash.update(b"%d:%b" % (len(comparable), comparable))

    @property
    def value(self) -> bytes:
        """Of all so far."""
        return self._hash.digest()


def read_payload(payload: bytes) -> tuple[int, bytes]:
    """The choice that a chunk belongs to, and what of it is the same each time. What is no chunk is taken as it is."""
    try:
        chunk = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NO_CHOICE, payload
    if not isinstance(chunk, dict):
        return NO_CHOICE, payload
    choices = chunk.get("choices")
    kept = {key: value for key, value in chunk.items() if key not in _DIFFERS}
    index = NO_CHOICE
    if isinstance(choices, list):
        kept["choices"] = [_read_choice(choice) for choice in choices]
        if len(choices) == 1 and isinstance(choices[0], dict) and isinstance(choices[0].get("index"), int):
            index = max(NO_CHOICE, choices[0]["index"])
    return index, _encode(kept)


def _read_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    kept = {key: value for key, value in choice.items() if key != "logprobs"}
    delta = choice.get("delta")
    if isinstance(delta, dict) and isinstance(delta.get("tool_calls"), list):
        # Engines make the id of a call up anew each time; the client has the first.
        calls = [
            {key: value for key, value in call.items() if key != "id"} if isinstance(call, dict) else call
            for call in delta["tool_calls"]
        ]
        kept["delta"] = delta | {"tool_calls": calls}
    return kept
