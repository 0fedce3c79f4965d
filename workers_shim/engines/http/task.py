"""A request in the words of an old worker, from its beginning or from what a client has of the answer. Pure.

Used by `engine`. Two kinds of worker are told apart by whether they tell a conversation template. FastChat's do:
they leave the prompt out, take several stop strings, and report usage. LLaVA's do not: they need exactly one stop
string, cut it off where they meet it, and go on; so they are given one that no text has, and the client's are looked
for by the engine.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from broker_wire.messages import Operation
from workers_shim import Request, RequestError
from workers_shim.engines.http.prompt import VICUNA, Conversation, render
from workers_shim.engines.not_offered import check_offered

DEFAULT_MAX_TOKENS = 512
"""Where an OpenAI client names no number. Old workers take 256 by themselves; more costs them room for the prompt."""
UNSEEN_STOP = "</s>"
"""The end-of-sequence token of most old models; their workers leave special tokens out of the text."""
BYTES_PER_TOKEN = 4
"""Of UTF-8, about, in most languages and tokenizers of old models."""
# OpenAI's and FastChat's parameters that mean the same to an old worker.
_SAME_NAMES = ("top_k", "presence_penalty", "frequency_penalty", "repetition_penalty", "best_of", "use_beam_search")


class Begun(Struct, frozen=True):
    """What the client has of an answer that goes on.

    Attributes:
        tokens: how many it is.
        prompt_tokens: how many the prompt has; None where nobody has counted, and `tokens` is an estimate.
    """

    text: str = ""
    tokens: int = 0
    prompt_tokens: int | None = None


class Task(Struct, frozen=True):
    """What an old worker is asked for.

    Attributes:
        parameters: the body of its `/worker_generate_stream`.
        limit: tokens of the whole answer.
        prompt: what it may send back before the answer.
        their_stops: strings that it cuts off where it meets them.
        our_stops: strings before which the answer is ended here.
        begun: what the client has of the answer.
    """

    parameters: dict[str, Any]
    prompt: str
    limit: int
    their_stops: Sequence[str]
    our_stops: Sequence[str] = ()
    begun: Begun = Begun()

    @property
    def is_complete(self) -> bool:
        """Nothing but its end is missing. What was estimated does not end an answer."""
        return self.begun.prompt_tokens is not None and self.begun.tokens >= self.limit


def make_task(request: Request, conversation: Conversation | None) -> Task:
    """A request in the words of an old worker.

    Raises: RequestError, for what none of them can do.
    """
    if request.operation is Operation.LLAVA:
        return _llava_task(request, conversation)
    is_chat = request.operation is Operation.CHAT
    # What FastChat's workers give for a completion.
    check_offered(request, _SAME_NAMES if is_chat or conversation is None else (*_SAME_NAMES, "logprobs"))
    limit = _limit_of(request)
    parameters: dict[str, Any] = {"model": request.model, "echo": False, "max_new_tokens": limit}
    parameters |= {name: request.parameters[name] for name in _SAME_NAMES if request.parameters.get(name) is not None}
    parameters |= {
        name: value
        for name, value in (("temperature", request.temperature), ("top_p", request.top_p), ("seed", request.seed))
        if value is not None
    }
    prompt = parameters["prompt"] = _prompt(request, conversation)
    if request.images:
        parameters["images"] = request.images if conversation else [_base64_of(image) for image in request.images]
    if conversation is None:
        parameters["stop"] = UNSEEN_STOP
        return Task(parameters, prompt, limit, (UNSEEN_STOP,), request.stop)
    stops = list(dict.fromkeys([*request.stop, *(conversation.stops if is_chat else ())]))
    parameters["stop"] = stops
    if is_chat and conversation.stop_token_ids:
        parameters["stop_token_ids"] = conversation.stop_token_ids
    if not is_chat and request.parameters.get("logprobs") is not None:
        parameters["logprobs"] = request.parameters["logprobs"]
    return Task(parameters, prompt, limit, stops)


def _llava_task(request: Request, conversation: Conversation | None) -> Task:
    """LLaVA's own request: passed on as the client wrote it, but for what its worker could not stand."""
    prompt = request.prompt or ""
    limit = _limit_of(request)
    parameters = {**msgspec.json.decode(request.raw), "model": request.model, "echo": False}
    if conversation is not None:
        return Task(parameters, prompt, limit, request.stop)
    if len(request.stop) == 1:
        parameters["stop"] = request.stop[0]
        return Task(parameters, prompt, limit, request.stop)
    parameters["stop"] = UNSEEN_STOP
    return Task(parameters, prompt, limit, (UNSEEN_STOP,), request.stop)


def _limit_of(request: Request) -> int:
    return DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens


def _prompt(request: Request, conversation: Conversation | None) -> str:
    if request.operation is Operation.CHAT:
        return render(conversation or VICUNA, request.messages or ())
    if request.prompt is None:
        raise RequestError("'prompt' has to be a text: this worker takes no token numbers")
    return request.prompt


def _base64_of(image: str) -> str:
    """LLaVA's worker takes the data alone."""
    if image.startswith(("http://", "https://")):
        raise RequestError("images have to be sent as data: this worker fetches none by their URL")
    return image.partition(";base64,")[2] if image.startswith("data:") else image


def go_on(task: Task, begun: Begun) -> Task:
    """The same with what is there as a part of the prompt, for the rest of the tokens."""
    prompt = task.prompt + begun.text
    parameters = task.parameters | {"prompt": prompt, "max_new_tokens": max(1, task.limit - begun.tokens)}
    if isinstance(seed := parameters.get("seed"), int):
        # By the same one it would draw again what it drew for the beginning.
        parameters["seed"] = seed + begun.tokens
    return msgspec.structs.replace(task, parameters=parameters, prompt=prompt, begun=begun)


def estimate_tokens(text: str) -> int:
    """Where the worker does not count them."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)
