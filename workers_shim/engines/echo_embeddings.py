"""Vectors of the engine `echo`: of length 1, the same for the same text, and without a meaning. Pure."""

import hashlib
import math
import struct

from workers_shim import Embeddings, Request, RequestError

DEFAULT_DIMENSIONS = 64
MAX_DIMENSIONS = 4096
MAX_NUMBERS = 2**18
"""Of one answer: 5 MB of JSON, for which other streams wait some tenths of a second."""


def embeddings(request: Request) -> Embeddings:
    """One vector for each text; tokens are as a text of their numbers.

    Raises: RequestError.
    """
    texts = [text if isinstance(text, str) else " ".join(map(str, text)) for text in request.inputs]
    dimensions = request.parameters.get("dimensions", DEFAULT_DIMENSIONS)
    if dimensions is None:
        dimensions = DEFAULT_DIMENSIONS
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise RequestError(f"'dimensions' has to be a whole number from 1 to {MAX_DIMENSIONS}")
    if dimensions * len(texts) > MAX_NUMBERS:
        raise RequestError(f"{len(texts)} vectors of {dimensions} dimensions are more than {MAX_NUMBERS} numbers")
    tokens = sum(len(text.split()) for text in texts)
    return Embeddings([vector_of(text, dimensions) for text in texts], tokens)


def vector_of(text: str, dimensions: int) -> list[float]:
    """Of its bytes, by a hash that has as many as it takes."""
    drawn = hashlib.shake_256(text.encode(errors="replace")).digest(2 * dimensions)
    # Odd, so that none is 0 and the length is not, either.
    numbers = [2 * number + 1 for number in struct.unpack(f"<{dimensions}h", drawn)]
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]
