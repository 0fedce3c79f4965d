"""What differs between OpenAI's chats and completions. Used by `events` (streams) and `answers` (whole ones)."""

from typing import Any

from msgspec import Struct


class Shape(Struct, frozen=True):
    """One of the two.

    Attributes:
        id_prefix: of an answer's id.
        kind, chunk_kind: the `object` of a whole answer, and of a chunk of a stream.
        before, after: around a text in a choice of a chunk.
        opening: what a choice's first chunk has instead, b"" where there is no such chunk.
        empty: what a chunk without a text has, which says why the choice ended.
    """

    id_prefix: str
    kind: str
    chunk_kind: str
    before: bytes
    after: bytes
    opening: bytes
    empty: bytes

    def content(self, text: str) -> dict[str, Any]:
        """A text in a choice of a whole answer."""
        return {"message": {"role": "assistant", "content": text}} if self is CHAT else {"text": text}


CHAT = Shape(
    id_prefix="chatcmpl-",
    kind="chat.completion",
    chunk_kind="chat.completion.chunk",
    before=b'"delta":{"content":',
    after=b"}",
    opening=b'"delta":{"role":"assistant","content":""}',
    empty=b'"delta":{}',
)
COMPLETION = Shape(
    id_prefix="cmpl-",
    kind="text_completion",
    chunk_kind="text_completion",
    before=b'"text":',
    after=b"",
    opening=b"",
    empty=b'"text":""',
)
