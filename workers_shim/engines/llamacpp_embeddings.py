"""Makes vectors of texts by llama.cpp: a worker that was started for that, and writes no text (`--embeddings`).

It is a mode of its own since a text is pooled as a whole: llama.cpp then has to read it in one go, however long it is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broker_wire.messages import Operation
from workers_shim import Embeddings, Request, RequestError, Worker
from workers_shim.engines.gguf import read_number
from workers_shim.engines.llamacpp_generation import raise_error
from workers_shim.engines.llamacpp_server import LlamaServer, ModelSettings, choose_settings, parameters_of

_OF_THE_MODEL = "model"
_POOLINGS = {"mean": 1, "cls": 2, "last": 3}
"""llama.cpp's enum llama_pooling_type, which GGUF files have, too."""


class LlamaCppEmbeddings:
    """One loaded model.

    Attributes:
        default_name: the file's name without its ending.
        context_length: tokens that one text may have.
    """

    def __init__(self, settings: ModelSettings, server: LlamaServer) -> None:
        self.default_name = settings.default_name
        self.context_length = settings.context_length
        self._server = server

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        *,
        pooling: str = _OF_THE_MODEL,
        slots: int = 1,
        context_length: int | None = None,
        threads: int | None = None,
    ) -> "LlamaCppEmbeddings":
        """Load a model, the small default one if `path` is None.

        `pooling`: how one vector comes out of those of all tokens: "mean", "cls", "last", or "model" for what its file
        says.

        Raises: ValueError, with a sentence.
        """
        settings = choose_settings(path, slots=slots, context_length=context_length, threads=threads)
        parameters = parameters_of(settings)
        parameters.embedding = True
        parameters.pooling_type = _pooling_of(settings.path, pooling)
        parameters.n_batch = parameters.n_ubatch = settings.context_length
        return cls(settings, LlamaServer(parameters))

    def generate(self, request: Request) -> Iterator[Embeddings]:
        """The vectors of all texts. Raises: RequestError."""
        if request.operation is not Operation.EMBEDDING:
            raise RequestError(f"model {request.model!r} makes vectors of texts, it writes none")
        vectors, tokens = [], 0
        for index, text in enumerate(request.inputs):
            # One by one, so that a cancel is noticed between two of them.
            request.raise_if_cancelled()
            self._check_length(index, text)
            answer = self._ask({"input": text})
            vectors.append(answer["data"][0]["embedding"])
            tokens += answer["usage"]["prompt_tokens"]
        yield Embeddings(vectors, tokens)

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._server.handle.handle_embeddings(body)
        except (ValueError, RuntimeError) as error:
            raise RequestError(f"llama.cpp cannot read the request: {error}") from error
        if "error" in answer:
            raise_error(answer["error"])
        return answer

    def _check_length(self, index: int, text: str | list[int]) -> None:
        """llama.cpp says the same, but calls it a fault of its own."""
        tokens = self._server.text.count(text, add_special=True) if isinstance(text, str) else len(text)
        if not tokens:
            raise RequestError(f"text {index} is empty")
        if tokens > self.context_length:
            raise RequestError(f"text {index} is too long: {tokens} tokens, the model takes {self.context_length}")


def register(worker: Worker, model: str, engine: LlamaCppEmbeddings) -> None:
    """Serve a model by it. The same texts have the same vectors anywhere."""
    worker.add_model(
        model,
        engine.generate,
        abilities=("embedding",),
        context_length=engine.context_length,
        resume="replay",
        streams=False,
    )


def _pooling_of(path: Path, pooling: str) -> int:
    if pooling != _OF_THE_MODEL:
        return _POOLINGS[pooling]
    of_model = read_number(path, ".pooling_type")
    if of_model is None or of_model not in _POOLINGS.values():
        names = ", ".join(_POOLINGS)
        raise ValueError(f"{path} does not say how its vectors are pooled: say --embeddings with one of {names}")
    return of_model
