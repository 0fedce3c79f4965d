"""Which KV cache a request can use: read from its header and body, for the dispatch method `affinity` alone.

Whoever names a session is believed. Otherwise the text itself is the name: an engine keeps the beginning of what it has
read, so two requests belong together as far as they begin alike. Pure; the digests are the same in every process.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw, Struct

HEADER = b"x-session-id"
"""Above `prompt_cache_key`, which is above `user`."""

BLOCK_BYTES = 256
"""Of a prompt: some sixty tokens, four of vLLM's blocks. LLaVA's preamble has 155 bytes, so that the first block has
words of the user's, too."""
MAX_BEGINNINGS = 128
"""Blocks or messages looked at: 32 KiB of a prompt tell it from all others."""
MAX_MESSAGE_BYTES = 32 * 1024
"""Hashed of one message, beside its length: an image has megabytes."""
_DIGEST_BYTES = 16


class SessionKey(Struct, frozen=True):
    """What a request has in common with earlier ones, as digests that differ by model.

    Attributes:
        beginnings: of its text, the longest first. A name that the client gave is the only one.
        home: the shortest of them; draws the worker while nobody is known to have any of them.
    """

    beginnings: tuple[bytes, ...]
    home: bytes


class _Asked(Struct):
    messages: list[Raw] = []
    prompt: Raw = Raw()
    prompt_cache_key: Any = None
    user: Any = None


class _Message(Struct):
    role: Any = None


_asked = msgspec.json.Decoder(_Asked)
_message = msgspec.json.Decoder(_Message)


def read_session(model: str, body: bytes, header: bytes | None) -> SessionKey | None:
    """`header` is the value of `X-Session-Id`. None for a body that neither names a session nor has a text."""
    if header:
        return _named(model, "header", header)
    try:
        return _from_body(model, _asked.decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # What reads the body for its protocol says what is wrong with it, or that nothing is.
        return None


def _from_body(model: str, asked: _Asked) -> SessionKey | None:
    """Raises: MsgspecError, UnicodeDecodeError, for a message that is none."""
    for kind, name in (("prompt_cache_key", asked.prompt_cache_key), ("user", asked.user)):
        if name and isinstance(name, str):
            return _named(model, kind, name.encode(errors="surrogatepass"))
    if asked.messages:
        return _from_beginnings(_of_chat(model, asked.messages))
    prompt = memoryview(asked.prompt)
    return _from_beginnings(_of_text(model, prompt)) if prompt else None


def _named(model: str, kind: str, name: bytes) -> SessionKey:
    digest = _digest_of(model)
    digest.update(kind.encode() + b"\0" + name)
    return _from_beginnings(iter([digest.digest()]))


def _from_beginnings(shortest_first: Iterator[bytes]) -> SessionKey:
    beginnings = tuple(shortest_first)
    return SessionKey(beginnings[::-1], beginnings[0])


def _of_chat(model: str, messages: list[Raw]) -> Iterator[bytes]:
    """After each message, from the user's first one on: what all clients of a service say before is no session."""
    digest = _digest_of(model)
    begun = False
    last = min(len(messages), MAX_BEGINNINGS) - 1
    for number, message in enumerate(messages[: last + 1]):
        digest.update(b"%d\0" % len(memoryview(message)))
        digest.update(memoryview(message)[:MAX_MESSAGE_BYTES])
        begun = begun or number == last or _message.decode(message).role == "user"
        if begun:
            yield digest.digest()


def _of_text(model: str, prompt: memoryview) -> Iterator[bytes]:
    """After each block of the JSON that it came as, less the quote at its end; a short one is one block."""
    digest = _digest_of(model)
    text = prompt[:-1]
    if len(text) < BLOCK_BYTES:
        digest.update(text)
        yield digest.digest()
        return
    for start in range(0, min(len(text) // BLOCK_BYTES, MAX_BEGINNINGS) * BLOCK_BYTES, BLOCK_BYTES):
        digest.update(text[start : start + BLOCK_BYTES])
        yield digest.digest()


def _digest_of(model: str) -> Any:
    return blake2b(model.encode() + b"\0", digest_size=_DIGEST_BYTES)
