"""The engine of a bridged worker: it calls an HTTP worker of the old kind and yields its answer as deltas.

An ordinary user of `workers_shim`: slots, acks, cancels and deadlines are the shim's. Made by `bridge`, one for each
HTTP worker, whatever models it has.

Two kinds of worker are told apart by whether they tell a conversation template. FastChat's do: they leave the prompt
out, take several stop strings, and report usage. LLaVA's do not: they need exactly one stop string, cut it off where
they meet it, and go on; so they are given one that no text has, and the client's are looked for here.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from broker_controller.bridge_prompt import VICUNA, Conversation, conversation_from, render
from broker_controller.old_worker import (
    Answer,
    NotThereError,
    OldWorker,
    OldWorkerError,
    RefusedError,
    UnreachableError,
)
from broker_controller.text_guard import PromptStripper, Shown, TextGuard, find_stop
from broker_wire.messages import Operation
from workers_shim import Chunk, Request, RequestError, Unavailable, Usage

_log = logging.getLogger(__name__)

DEFAULT_MAX_TOKENS = 512
"""Where an OpenAI client names no number. Old workers take 256 by themselves; more costs them room for the prompt."""
LEAVING_TIME = 0.25
"""Seconds in which a bridge whose worker is away stops taking requests."""
UNSEEN_STOP = "</s>"
"""The end-of-sequence token of most old models; their workers leave special tokens out of the text."""
# FastChat: fastchat/constants.py. Its other codes are the worker's own trouble.
_REQUEST_CODES = frozenset({40001, 40302, 40303})
# LLaVA and FastChat show this for every error; FastChat writes the reason behind it, in brackets.
_NO_REASON = "NETWORK ERROR DUE TO HIGH TRAFFIC"
# OpenAI's and FastChat's parameters that mean the same to an old worker.
_SAME_NAMES = ("top_k", "presence_penalty", "frequency_penalty", "repetition_penalty", "best_of", "use_beam_search")


class Task(Struct, frozen=True):
    """What an old worker is asked for.

    Attributes:
        parameters: the body of its `/worker_generate_stream`.
        prompt: what it may send back before the answer.
        their_stops: strings that it cuts off where it meets them.
        our_stops: strings before which the answer is ended here.
    """

    parameters: dict[str, Any]
    prompt: str
    their_stops: Sequence[str]
    our_stops: Sequence[str] = ()


class BridgeEngine:
    """Calls one HTTP worker. `generate` is the function that a `workers_shim.Worker` serves."""

    def __init__(self, worker: OldWorker, on_unreachable: Callable[[str], None]) -> None:
        """`on_unreachable`: told, with the reason, from the engine's thread, before a request is given back."""
        self._worker = worker
        self._on_unreachable = on_unreachable
        self._conversations: dict[str, Conversation | None] = {}
        self._leaves_prompts_out: set[str] = set()

    async def generate(self, request: Request) -> AsyncIterator[str | Chunk]:
        """One answer.

        Raises: RequestError; Unavailable, when the worker never heard of the request; OldWorkerError.
        """
        try:
            task = make_task(request, await self._conversation(request.model))
            stripper = PromptStripper(task.prompt, honours_echo=request.model in self._leaves_prompts_out)
            async with (
                contextlib.aclosing(self._worker.generate(task.parameters)) as answers,
                contextlib.aclosing(_chunks(answers, task, stripper)) as chunks,
            ):
                async for chunk in chunks:
                    yield chunk
        except UnreachableError as error:
            self._on_unreachable(str(error))
            # Until the bridge has left the queues, the request would come straight back.
            await asyncio.sleep(LEAVING_TIME)
            raise Unavailable(str(error)) from error
        except RefusedError as error:
            raise RequestError(str(error)) from error
        if stripper.leaves_prompt_out:
            self._leaves_prompts_out.add(request.model)

    async def _conversation(self, model: str) -> Conversation | None:
        """The model's template, asked for once; None for a worker that does not tell."""
        if model not in self._conversations:
            try:
                answer = await self._worker.ask("/worker_get_conv_template", {"model": model})
            except NotThereError:
                answer = None
            except UnreachableError:
                raise
            except OldWorkerError as error:
                _log.warning("no conversation template model=%s reason=%s", model, error)
                return None
            self._conversations[model] = conversation_from(answer)
        return self._conversations[model]


def make_task(request: Request, conversation: Conversation | None) -> Task:
    """A request in the words of an old worker.

    Raises: RequestError, for what none of them can do.
    """
    if request.operation is Operation.LLAVA:
        return _llava_task(request, conversation)
    if request.operation is Operation.EMBEDDING:
        raise RequestError(f"model {request.model!r} is served over HTTP by a worker that makes no embeddings")
    if request.parameters.get("n") not in (None, 1):
        raise RequestError("'n' has to be 1: this worker makes one answer at a time")
    parameters: dict[str, Any] = {
        "model": request.model,
        "echo": False,
        "max_new_tokens": DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
    }
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
        return Task(parameters, prompt, (UNSEEN_STOP,), request.stop)
    chat = request.operation is Operation.CHAT
    stops = list(dict.fromkeys([*request.stop, *(conversation.stops if chat else ())]))
    parameters["stop"] = stops
    if chat and conversation.stop_token_ids:
        parameters["stop_token_ids"] = conversation.stop_token_ids
    if not chat and request.parameters.get("logprobs") is not None:
        parameters["logprobs"] = request.parameters["logprobs"]
    return Task(parameters, prompt, stops)


def _llava_task(request: Request, conversation: Conversation | None) -> Task:
    """LLaVA's own request: passed on as the client wrote it, but for what its worker could not stand."""
    prompt = request.prompt or ""
    parameters = {**msgspec.json.decode(request.raw), "model": request.model, "echo": False}
    if conversation is not None:
        return Task(parameters, prompt, request.stop)
    if len(request.stop) == 1:
        parameters["stop"] = request.stop[0]
        return Task(parameters, prompt, request.stop)
    parameters["stop"] = UNSEEN_STOP
    return Task(parameters, prompt, (UNSEEN_STOP,), request.stop)


def _prompt(request: Request, conversation: Conversation | None) -> str:
    if request.operation is Operation.CHAT:
        return render(conversation or VICUNA, request.messages or ())
    if request.prompt is None:
        raise RequestError("'prompt' has to be one text: this worker takes neither several nor token numbers")
    return request.prompt


def _base64_of(image: str) -> str:
    """LLaVA's worker takes the data alone."""
    if image.startswith(("http://", "https://")):
        raise RequestError("images have to be sent as data: this worker fetches none by their URL")
    return image.partition(";base64,")[2] if image.startswith("data:") else image


async def _chunks(
    answers: AsyncIterator[Answer | None], task: Task, stripper: PromptStripper
) -> AsyncGenerator[str | Chunk, None]:
    """Cumulative texts to deltas, and the facts about the answer to its last chunk."""
    guard = TextGuard((*task.their_stops, *task.our_stops))
    logprobs = _Logprobs()
    answer, text, finish_reason = None, "", None
    async for latest in answers:
        if latest is None:
            # Empty, and yet a sign of life.
            yield ""
            continue
        answer = latest
        if answer.error_code:
            raise _failure(answer)
        before, text = text, stripper.answer_of(answer.text)
        stop = find_stop(text, task.our_stops, len(before) if text.startswith(before) else 0)
        if stop is not None:
            text, finish_reason = text[:stop], "stop"
        shown = guard.feed(text)
        yield "" if shown is None else _chunk(shown, logprobs.new(answer.logprobs))
        if stop is not None:
            break
    if answer is None:
        raise OldWorkerError("the HTTP worker ended the answer before it began")
    shown = guard.finish()
    if shown is not None:
        yield _chunk(shown, logprobs.new(answer.logprobs))
    if isinstance(answer.finish_reason, str):
        finish_reason = finish_reason or answer.finish_reason
    # LLaVA's worker gives no reason.
    yield Chunk(finish_reason=finish_reason or "stop", usage=_usage(answer.usage))


def _chunk(shown: Shown, logprobs: object) -> str | Chunk:
    if shown.replace_from is None and logprobs is None:
        return shown.text
    return Chunk(shown.text, replace_from=shown.replace_from, logprobs=logprobs)


class _Logprobs:
    """FastChat's logprobs are cumulative lists, too: what is new of them."""

    def __init__(self) -> None:
        self._sent = 0

    def new(self, logprobs: object) -> object:
        if not isinstance(logprobs, dict):
            return logprobs
        lists = [value for value in logprobs.values() if isinstance(value, list)]
        start, self._sent = self._sent, max(map(len, lists), default=0)
        return {key: value[start:] if isinstance(value, list) else value for key, value in logprobs.items()}


def _usage(usage: object) -> Usage | None:
    """Raises nothing: usage that is not understood is none."""
    if not isinstance(usage, dict):
        return None
    prompt_tokens, completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if isinstance(prompt_tokens, int) and isinstance(completion_tokens, int):
        return Usage(prompt_tokens, completion_tokens)
    return None


def _failure(answer: Answer) -> Exception:
    text = answer.text.strip()
    if _NO_REASON in text:
        _, _, reason = text.partition("\n\n")
        text = reason.strip().removeprefix("(").removesuffix(")") or "an error inside it, of which it gives no reason"
    sentence = f"{text} (error_code {answer.error_code} of the HTTP worker)"
    return RequestError(sentence) if answer.error_code in _REQUEST_CODES else OldWorkerError(sentence)
