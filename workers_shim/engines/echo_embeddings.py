"""Vectors of the engine `echo`: of length 1, the same for the same text, and without a meaning. Pure."""

import base64
import hashlib
import math
import struct
from typing import Any

import msgspec

from workers_shim import Chunk, Request, RequestError, Usage

DEFAULT_DIMENSIONS = 64
MAX_DIMENSIONS = 4096
MAX_INPUTS = 2048
"""OpenAI's bound of one request."""
MAX_NUMBERS = 2**18
"""Of one answer: 5 MB of JSON, for which other streams wait some tenths of a second."""


def embeddings(request: Request) -> Chunk:
    """OpenAI's whole answer.

    Raises: RequestError.
    """
    texts = [request.prompt] if request.prompt is not None else _texts(request.parameters.get("input"))
    dimensions = request.parameters.get("dimensions")
    if dimensions is None:
        dimensions = DEFAULT_DIMENSIONS
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise RequestError(f"'dimensions' has to be a whole number from 1 to {MAX_DIMENSIONS}")
    if dimensions * len(texts) > MAX_NUMBERS:
        raise RequestError(f"{len(texts)} vectors of {dimensions} dimensions are more than {MAX_NUMBERS} numbers")
    form = request.parameters.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise RequestError("'encoding_format' has to be float or base64")
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector_of(text, dimensions), form)}
        for index, text in enumerate(texts)
    ]
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"object": "list", "data": data, "model": request.model, "usage": usage}
    return Chunk(payload=msgspec.json.encode(answer), usage=Usage(tokens, 0))


def vector_of(text: str, dimensions: int) -> list[float]:
    """Of its bytes, by a hash that has as many as it takes."""
    drawn = hashlib.shake_256(text.encode(errors="replace")).digest(2 * dimensions)
    # Odd, so that none is 0 and the length is not, either.
    numbers = [2 * number + 1 for number in struct.unpack(f"<{dimensions}h", drawn)]
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]


def _encoded(vector: list[float], form: str) -> Any:
    if form == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _texts(inputs: Any) -> list[str]:
    """Several texts, tokens, or several lists of tokens; a list of tokens is as a text of their numbers."""
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_INPUTS:
        raise RequestError(f"'input' has to be a text, or a list of 1 to {MAX_INPUTS} of them")
    if all(isinstance(item, str) for item in inputs):
        return inputs
    lists = inputs if all(isinstance(item, list) for item in inputs) else [inputs]
    if not all(type(token) is int for tokens in lists for token in tokens):
        raise RequestError("'input' has to be a text or tokens, or a list of either")
    return [" ".join(map(str, tokens)) for tokens in lists]
