"""Runs a GGUF model by llama.cpp, inside this process (package xllamacpp, the extra `llamacpp`).

A chat goes through the model's own template, a prompt is completed as it is. Text comes out token by token, as it is
generated, and a cancel is noticed at the next token, or at the next part of a long prompt.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from broker_wire.messages import Operation
from workers_shim import Chunk, Conversation, Request, RequestError, Usage, Worker
from workers_shim.conversation import derive_conversation
from workers_shim.engines.llamacpp_generation import ChunkReader, Generation, only_the_end
from workers_shim.engines.llamacpp_request import RANDOM_SEED, SHAPED, body_of, choices_of
from workers_shim.engines.llamacpp_server import LlamaServer, ModelSettings, choose_settings, parameters_of


class LlamaCpp:
    """One loaded model that writes text.

    Attributes:
        default_name: the file's name without its ending.
        context_length: tokens that one request may have, prompt and answer together.
        abilities: what the model can be asked for.
        address: of llama.cpp's own HTTP port.
    """

    def __init__(self, settings: ModelSettings, server: LlamaServer, *, media_marker: str | None) -> None:
        self.default_name = settings.default_name
        self.context_length = settings.context_length
        self.abilities = ["chat", "completion", "vision"] if media_marker else ["chat", "completion"]
        self.address = server.address
        self._server = server
        self._media_marker = media_marker

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        *,
        slots: int = 1,
        context_length: int | None = None,
        threads: int | None = None,
        projector: Path | None = None,
    ) -> "LlamaCpp":
        """Load a model, the small default one if `path` is None; `projector` is the file that makes it see images.

        Raises: ValueError, with a sentence.
        """
        settings = choose_settings(path, slots=slots, context_length=context_length, threads=threads)
        parameters = parameters_of(settings)
        if projector is not None:
            if not projector.is_file():
                raise ValueError(f"there is no projector file {projector}")
            parameters.mmproj.path = str(projector)
            # A prompt with images keeps one of them busy as long as its answer is written.
            parameters.n_threads_http += slots
        server = LlamaServer(parameters)
        try:
            marker = None if projector is None else server.text.media_marker()
        except (OSError, KeyError) as error:
            raise ValueError(f"llama.cpp does not tell what stands for an image in a prompt: {error!r}") from error
        return cls(settings, server, media_marker=marker)

    def generate(self, request: Request) -> Iterator[str | Chunk]:
        """One answer. Raises: RequestError, when llama.cpp says that the request is at fault."""
        if request.operation is Operation.EMBEDDING:
            raise RequestError(f"model {request.model!r} writes text: a worker started with --embeddings makes vectors")
        choices = choices_of(request)
        body = body_of(request, media_marker=self._media_marker)
        if choices == 1:
            yield from self._choice(request, body)
            return
        usage = Usage(0, 0)
        for index in range(choices):
            for item in self._choice(request, body | {"seed": (body["seed"] + index) % RANDOM_SEED}, index):
                if isinstance(item, Chunk) and item.usage is not None:
                    # The prompt is one, and read once: the next choice finds it in the slot.
                    usage = Usage(item.usage.prompt_tokens, usage.completion_tokens + item.usage.completion_tokens)
                yield item
        yield Chunk(usage=usage)

    def count_tokens(self, text: str) -> int:
        """How many tokens a prompt has. Raises: RuntimeError, OSError."""
        return self._server.text.count(text, add_special=True)

    def conversation(self) -> Conversation | None:
        """The model's own template in FastChat's form; None where it has none. Raises: OSError."""
        return derive_conversation(self.default_name, self._server.text.render)

    def _choice(self, request: Request, body: dict[str, Any], index: int = 0) -> Iterator[str | Chunk]:
        had = self._server.text.count(request.resume_text) if request.resume_text else 0
        limit = request.max_tokens
        is_complete = bool(had) and limit is not None and had >= limit
        if limit is not None:
            body["max_tokens"] = max(1, limit - had)
        if had:
            # With the same one it would draw for these tokens what it drew for the first ones.
            body["seed"] = (body["seed"] + had) % RANDOM_SEED
        reader = ChunkReader(request, had, index)
        generation = Generation(self._server, request, body)
        try:
            for chunk in generation.chunks():
                for item in reader.read(chunk):
                    yield only_the_end(item) if is_complete else item
        finally:
            # The slot is free when llama.cpp has let go of it, not before.
            generation.stop()


def register(worker: Worker, model: str, engine: LlamaCpp) -> None:
    """Serve a model by it; an answer that another worker began is gone on with."""
    worker.add_model(
        model,
        engine.generate,
        abilities=engine.abilities,
        context_length=engine.context_length,
        resume=resume_of,
        count_tokens=engine.count_tokens,
        conversation=engine.conversation(),
    )


def resume_of(request: Request) -> Sequence[str]:
    """Text goes on from what is there. What is more than that is repeated: the same seed draws the same again."""
    shaped = any(request.parameters.get(name) for name in SHAPED)
    several = request.parameters.get("n") not in (None, 1)
    return ["replay"] if shaped or several else ["prefix", "replay"]
