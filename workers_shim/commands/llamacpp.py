"""`workers-shim llamacpp`."""

import argparse
from pathlib import Path

from workers_shim.commands.command import EngineCommand, ModelNames
from workers_shim.options import Options
from workers_shim.worker import Worker


def _add_options(options: Options) -> None:
    options.add("--gguf", type=Path, metavar="PATH", help="the model's file (default: SmolLM2-135M-Instruct)")
    options.add("--context-length", type=int, metavar="N", help="tokens a request may have (default: the model's own)")
    options.add("--threads", type=int, metavar="N", help="threads of llama.cpp (default: by the number of cores)")


def _register(worker: Worker, options: argparse.Namespace) -> None:
    from workers_shim.engines import llamacpp

    engine = llamacpp.LlamaCpp.load(
        options.gguf, slots=worker.config.slots, context_length=options.context_length, threads=options.threads
    )
    for model in options.models or [engine.default_name]:
        llamacpp.register(worker, model, engine)


LLAMACPP = EngineCommand(
    name="llamacpp",
    summary="run a GGUF model by llama.cpp",
    model_names=ModelNames.OPTIONAL,
    default_model="the file's name",
    add_options=_add_options,
    register=_register,
)
