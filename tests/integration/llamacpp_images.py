"""Pictures for the llama.cpp engine with a projector, and chats about them."""

import base64
import struct
import zlib
from typing import Any

LANGUAGE_WIDTH = 576
"""Numbers of an embedding of SmolLM2-135M."""


def png(color: tuple[int, int, int], width: int = 40, height: int = 30) -> str:
    """A data URL."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(color) * width) * height
    head = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


RED, BLUE = png((255, 0, 0)), png((0, 0, 255))


def chat_about(*urls: str) -> list[dict[str, Any]]:
    """A user's message with images."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": "Say what is in"}, *images]}]
