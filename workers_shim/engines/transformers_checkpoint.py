"""Loads a checkpoint for `transformers`: the model, and what makes tokens of its prompts.

It needs torch and transformers, and is imported only when this engine is asked for.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from msgspec import Struct

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Checkpoint(Struct, frozen=True):
    """What was loaded.

    Attributes:
        model: ready to generate, on its device.
        tokenizer: of the library.
        processor: makes inputs of texts and images; None for a model that sees text only.
        image_mark: what stands in a prompt for an image.
        context_length: in tokens.
        end_tokens: any of them ends an answer.
    """

    model: Any
    tokenizer: Any
    processor: Any
    image_mark: str
    context_length: int
    end_tokens: frozenset[int]

    @property
    def templater(self) -> Any:
        """Has the chat template, if there is one: a processor may leave it to its tokenizer."""
        return _templater(self.processor, self.tokenizer)

    @property
    def device(self) -> str:
        """Where the model is: "cpu", "cuda:0"."""
        return str(self.model.device)


def load_checkpoint(source: str, *, device: str, dtype: str, context_length: int | None) -> Checkpoint:
    """Load a folder, or a model of the Hugging Face Hub by its name.

    Raises: ValueError, with a sentence.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here: say --device cpu, or install a torch that is made for CUDA")
    if source.startswith(("/", ".")) and not Path(source).is_dir():
        raise ValueError(f"there is no folder {source}")
    with _loading(source):
        config = transformers.AutoConfig.from_pretrained(source)
    loader, sees = _loader_of(source, config)
    with _loading(source):
        model, facts = loader.from_pretrained(source, dtype=DTYPES.get(dtype, "auto"), output_loading_info=True)
        processor: Any = transformers.AutoProcessor.from_pretrained(source) if sees else None
        tokenizer = processor.tokenizer if sees else transformers.AutoTokenizer.from_pretrained(source)
        model.to(device)
    if facts["missing_keys"]:
        # The library goes on with weights drawn by chance, and warns.
        raise ValueError(f"the checkpoint {source!r} lacks weights of its model, {min(facts['missing_keys'])} for one")
    return Checkpoint(
        model=model.eval(),
        tokenizer=tokenizer,
        processor=processor,
        image_mark=_image_mark(processor) if sees else "",
        context_length=_context_length(config, context_length),
        end_tokens=_end_tokens(model.generation_config.eos_token_id, tokenizer.eos_token_id),
    )


def name_of(source: str) -> str:
    """The last part of a path or of a name on the Hub, as LLaVA's workers do."""
    return Path(source).resolve().name if Path(source).exists() else source.rstrip("/").rpartition("/")[2]


@contextlib.contextmanager
def _loading(source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # The library's sentences have several lines.
        raise ValueError(f"the model {source!r} cannot be loaded: {' '.join(str(error).split())}") from error


def _loader_of(source: str, config: Any) -> tuple[Any, bool]:
    """The class that loads it, and whether it sees images."""
    if hasattr(config, "mm_vision_tower"):
        raise ValueError(
            f"{source!r} is in LLaVA's first format, which needs LLaVA's own code: take the same model from llava-hf"
        )
    if type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText, True
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM, False
    raise ValueError(f"{source!r} is a model of type {config.model_type!r}, which does not write text")


def _templater(processor: Any, tokenizer: Any) -> Any:
    return processor if processor is not None and processor.chat_template else tokenizer


def _image_mark(processor: Any) -> str:
    """Some processors look for one token, and put others into the prompt: the chat template knows which is which."""
    marks = [mark for name in ("image_token", "boi_token") if (mark := getattr(processor, name, None))]
    if not marks:
        raise ValueError(f"{type(processor).__name__} does not say what stands in a prompt for an image")
    templater = _templater(processor, processor.tokenizer)
    if templater.chat_template:
        trial = templater.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=False)
        marks = [mark for mark in marks if trial.count(mark) == 1] or marks
    return str(marks[0])


def _context_length(config: Any, wanted: int | None) -> int:
    own: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    if wanted is not None:
        if wanted < 1 or (own is not None and wanted > own):
            raise ValueError(f"the context length has to be from 1 to the model's own {own}, not {wanted}")
        return wanted
    if own is None:
        raise ValueError("the model does not say how many tokens it takes: say --context-length N")
    return own


def _end_tokens(of_model: int | Sequence[int] | None, of_tokenizer: int | None) -> frozenset[int]:
    if of_model is None:
        return frozenset() if of_tokenizer is None else frozenset([of_tokenizer])
    return frozenset([of_model]) if isinstance(of_model, int) else frozenset(of_model)
