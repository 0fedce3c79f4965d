"""How the next token is chosen: as the checkpoint says, but for what a request says instead. Used by `transformers`."""

import copy

import msgspec
from msgspec import Struct
from transformers import GenerationConfig

from broker_wire.messages import Operation
from workers_shim import Request, RequestError
from workers_shim.engines.not_offered import check_offered
from workers_shim.engines.transformers_checkpoint import Checkpoint

COLDEST = 0.001
"""Of temperatures. LLaVA's worker, too, takes the likeliest token at and below it."""


class _More(Struct):
    """What vLLM's, FastChat's and LLaVA's clients say beside OpenAI's fields."""

    top_k: int | None = None
    repetition_penalty: float | None = None


def check_parameters(request: Request) -> None:
    """Raises: RequestError, for what this engine does not do."""
    if request.operation is Operation.EMBEDDING:
        raise RequestError(f"model {request.model!r} writes text, it makes no vectors")
    check_offered(request)
    if request.max_tokens == 0:
        raise RequestError("the largest number of tokens has to be at least 1")


def make_settings(checkpoint: Checkpoint, request: Request, new_tokens: int) -> GenerationConfig:
    """Raises: RequestError, with a sentence that names the field."""
    try:
        more = msgspec.convert(request.parameters, _More, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(f"a parameter cannot be used: {error}") from error
    settings = copy.deepcopy(checkpoint.model.generation_config)
    draws = _draws(request, settings)
    settings.update(
        max_new_tokens=new_tokens,
        max_length=None,
        min_length=0,
        min_new_tokens=None,
        num_beams=1,
        num_return_sequences=1,
        do_sample=draws,
        eos_token_id=sorted(checkpoint.end_tokens) or None,
        pad_token_id=_padding(checkpoint, settings),
        # A minute in the middle of somebody's answer.
        disable_compile=True,
    )
    if more.repetition_penalty is not None:
        if not more.repetition_penalty > 0:
            raise RequestError(f"'repetition_penalty' has to be more than 0, not {more.repetition_penalty:g}")
        settings.repetition_penalty = more.repetition_penalty
    if not draws:
        settings.update(temperature=None, top_p=None, top_k=None)
        return settings
    if request.temperature is not None:
        settings.temperature = request.temperature
    if request.top_p is not None:
        settings.top_p = request.top_p
    if more.top_k is not None:
        # vLLM and FastChat say -1 for all of them.
        settings.top_k = max(0, more.top_k)
    return settings


def seed_of(request: Request, had: int) -> int:
    """The client's, or one that another worker takes, too.

    By the same one the `had` tokens that came with the prompt would be drawn again.
    """
    seed = request.default_seed if request.seed is None else request.seed
    return (seed + had) % 2**63


def _draws(request: Request, settings: GenerationConfig) -> bool:
    if request.temperature is not None:
        return request.temperature > COLDEST
    return bool(settings.do_sample) or request.top_p is not None


def _padding(checkpoint: Checkpoint, settings: GenerationConfig) -> int | None:
    """Nothing is padded; but the library warns where it has none."""
    for token in (settings.pad_token_id, checkpoint.tokenizer.pad_token_id):
        if token is not None:
            return int(token)
    return min(checkpoint.end_tokens, default=None)
