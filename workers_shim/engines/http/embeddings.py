"""Embeddings of an old HTTP worker: FastChat's `/worker_get_embeddings`, a vector a chunk. Used by `engine`.

LLaVA's workers make none, and say so by HTTP's status.
"""

from collections.abc import AsyncIterator, Mapping

import msgspec
from msgspec import Struct

from workers_shim import Chunk, Request, RequestError, Usage
from workers_shim.engines.http.old_worker import NotThereError, OldWorker, OldWorkerError

MAX_EMBEDDINGS_BYTES = 64 * 1024 * 1024
"""Of one answer: a thousand vectors of 3,072 numbers."""


class _Answer(Struct):
    """FastChat's. Of an error it has the code and the text alone."""

    embedding: list[msgspec.Raw] = []
    token_num: int = 0
    error_code: int = 0
    text: str = ""


_read = msgspec.json.Decoder(_Answer).decode


async def embed(worker: OldWorker, request: Request, headers: Mapping[str, str]) -> AsyncIterator[Chunk]:
    """The entries of OpenAI's answer, with the numbers or the base64 as the worker wrote them. `headers` go with it.

    Raises: RequestError; OldWorkerError.
    """
    answer = await _ask(worker, request, headers)
    for index, vector in enumerate(answer.embedding):
        entry = {"object": "embedding", "index": index, "embedding": vector}
        yield Chunk(payload=msgspec.json.encode(entry), index=index)
    yield Chunk(finish_reason="stop", usage=Usage(answer.token_num, 0))


async def _ask(worker: OldWorker, request: Request, headers: Mapping[str, str]) -> _Answer:
    if not all(isinstance(text, str) for text in request.inputs):
        raise RequestError("'input' has to be one text or several: this worker takes no token numbers")
    form = request.parameters.get("encoding_format")
    body = msgspec.json.encode({"model": request.model, "input": request.inputs, "encoding_format": form})
    try:
        answer = await worker.pass_on(
            "/worker_get_embeddings", body, headers, timeout=request.remaining(), limit=MAX_EMBEDDINGS_BYTES
        )
        embeddings = _read(answer)
    except NotThereError as error:
        text = f"model {request.model!r} is served over HTTP by a worker that makes no embeddings"
        raise RequestError(text) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OldWorkerError(f"the worker's embeddings are not of FastChat's form: {error}") from error
    if embeddings.error_code:
        raise OldWorkerError(f"{embeddings.text} (error_code {embeddings.error_code} of the HTTP worker)")
    if len(embeddings.embedding) != len(request.inputs):
        raise OldWorkerError(f"the worker gave {len(embeddings.embedding)} embeddings for {len(request.inputs)} texts")
    return embeddings
