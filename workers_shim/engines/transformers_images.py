"""Reads the images of a request: data URLs or base64, with bounds, since a client can send anything.

Used by `transformers_prompt`. Nothing is fetched: an address would make the worker ask whatever a client names.
"""

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageOps

from workers_shim import RequestError

MAX_IMAGES = 16
"""In one request."""
MAX_BYTES = 16 * 1024 * 1024
"""Of one image's file: as much as the broker takes as a message."""
MAX_PIXELS = 32 * 1024 * 1024
"""Of all images of a request together: 96 MiB of memory. A file of some KB can claim thousands of millions."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
"""Pillow reads many more, by code that few look at."""


def read_images(texts: Sequence[str]) -> list[Any]:
    """As RGB images of Pillow's, turned as the camera says.

    Raises: RequestError, with a sentence that says which image.
    """
    if len(texts) > MAX_IMAGES:
        raise RequestError(f"the request has {len(texts)} images, {MAX_IMAGES} can be read")
    images, room = [], MAX_PIXELS
    for number, text in enumerate(texts, 1):
        try:
            image = _open(_bytes_of(text))
            if (room := room - image.width * image.height) < 0:
                raise RequestError(f"more than {MAX_PIXELS} pixels, with those before it")  # noqa: TRY301
            images.append(_decode(image))
        except RequestError as error:
            raise RequestError(f"image {number} of {len(texts)} cannot be read: {error}") from None
    return images


def _bytes_of(text: str) -> bytes:
    if text.startswith("data:"):
        head, comma, data = text.partition(",")
        if not (comma and head.endswith(";base64")):
            raise RequestError("a data URL has to look like data:image/png;base64,…")
    elif "://" in text[:32]:
        raise RequestError("addresses are not fetched: send it as a data URL, data:image/png;base64,…")
    else:
        # As LLaVA's clients send it.
        data = text
    # Four characters are three bytes.
    if len(data) > MAX_BYTES // 3 * 4:
        raise RequestError(f"more than {MAX_BYTES} bytes")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("it is not base64") from None


def _open(data: bytes) -> Image.Image:
    """Reads the head alone, which says the size."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise RequestError(f"more than {MAX_PIXELS} pixels") from None
    except Exception:  # noqa: BLE001 - Pillow's readers raise anything when a file is broken
        raise RequestError(f"it is none of {', '.join(FORMATS)}") from None


def _decode(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # noqa: BLE001 - as above
        raise RequestError(f"its data is broken ({error})") from None
