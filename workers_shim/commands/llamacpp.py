"""`workers-shim llamacpp`."""

import argparse
from pathlib import Path
from typing import Any

from workers_shim.commands.command import EngineCommand, ModelNames
from workers_shim.options import Options, SettingError
from workers_shim.worker import Worker


def _add_options(options: Options) -> None:
    options.add("--gguf", type=Path, metavar="PATH", help="the model's file (default: SmolLM2-135M-Instruct)")
    options.add("--context-length", type=int, metavar="N", help="tokens a request may have (default: the model's own)")
    options.add("--threads", type=int, metavar="N", help="threads of llama.cpp (default: by the number of cores)")
    options.add("--mmproj", type=Path, metavar="PATH", help="the projector's file, by which the model sees images")
    options.add(
        "--embeddings",
        choices=("model", "mean", "cls", "last"),
        help="make vectors instead of text, pooled in this way, or as the model's file says",
    )


def _register(worker: Worker, options: argparse.Namespace) -> None:
    how = {
        "slots": worker.config.slots,
        "context_length": options.context_length,
        "threads": options.threads,
    }
    if options.embeddings is None:
        _register_text(worker, options, how)
    elif options.mmproj is None:
        _register_embeddings(worker, options, how)
    else:
        raise SettingError("--mmproj is for a model that writes text: leave it, or --embeddings, out")


def _register_text(worker: Worker, options: argparse.Namespace, how: dict[str, Any]) -> None:
    from workers_shim.engines import llamacpp

    engine = llamacpp.LlamaCpp.load(options.gguf, projector=options.mmproj, **how)
    for model in options.models or [engine.default_name]:
        llamacpp.register(worker, model, engine)


def _register_embeddings(worker: Worker, options: argparse.Namespace, how: dict[str, Any]) -> None:
    from workers_shim.engines import llamacpp_embeddings

    engine = llamacpp_embeddings.LlamaCppEmbeddings.load(options.gguf, pooling=options.embeddings, **how)
    for model in options.models or [engine.default_name]:
        llamacpp_embeddings.register(worker, model, engine)


LLAMACPP = EngineCommand(
    name="llamacpp",
    summary="run a GGUF model by llama.cpp",
    model_names=ModelNames.OPTIONAL,
    default_model="the file's name",
    add_options=_add_options,
    register=_register,
)
