"""`workers-shim transformers`."""

import argparse

from workers_shim.commands.command import EngineCommand, ModelNames
from workers_shim.options import Options, SettingError
from workers_shim.worker import Worker


def _add_options(options: Options) -> None:
    options.add("--model-path", metavar="PATH", help="a checkpoint's folder, or its name on the Hugging Face Hub")
    options.add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto is CUDA where there is any (default: auto)",
    )
    options.add(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="of the weights; auto is the checkpoint's own (default: auto)",
    )
    options.add("--context-length", type=int, metavar="N", help="tokens a request may have (default: the model's own)")


def _register(worker: Worker, options: argparse.Namespace) -> None:
    if not options.model_path:
        raise SettingError("say which model to load: --model-path PATH")
    try:
        from workers_shim.engines import transformers
    except ImportError as error:
        raise SettingError(
            "the engine transformers needs torch, transformers and Pillow: "
            f"pip install 'broker-controller[transformers]' ({error})"
        ) from error
    transformers.check_slots(worker)
    engine = transformers.Transformers.load(
        options.model_path, device=options.device, dtype=options.dtype, context_length=options.context_length
    )
    for model in options.models or [engine.default_name]:
        transformers.register(worker, model, engine)


TRANSFORMERS = EngineCommand(
    name="transformers",
    summary="run a model by Hugging Face's transformers, with images too",
    model_names=ModelNames.OPTIONAL,
    default_model="the last part of the path",
    add_options=_add_options,
    register=_register,
)
