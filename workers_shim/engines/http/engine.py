"""Calls an HTTP worker of the old kind and yields its answer as deltas.

An ordinary user of `workers_shim`: slots, acks, cancels and deadlines are the shim's. Made by the command `http` and by
the controller's bridges, one for each HTTP worker, whatever models it has.

An answer that another worker began goes on from its text, which an old worker takes for a part of the prompt.
"""

import asyncio
import contextlib
import logging
import string
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from urllib.parse import quote

import msgspec

from broker_wire.messages import HOPS_HEADER, Operation
from workers_shim import Chunk, Lost, Request, RequestError, Unavailable, Usage
from workers_shim.cumulative import Answer, Deltas
from workers_shim.engines.http.embeddings import embed
from workers_shim.engines.http.old_worker import (
    BrokenOffError,
    NotThereError,
    OldWorker,
    OldWorkerError,
    RefusedError,
    UnreachableError,
)
from workers_shim.engines.http.prompt import Conversation, conversation_from
from workers_shim.engines.http.task import Begun, Task, estimate_tokens, go_on, make_task
from workers_shim.text_guard import PromptStripper

_log = logging.getLogger(__name__)

LEAVING_TIME = 0.25
"""Seconds in which whoever serves a worker that is away stops taking requests."""


class HttpEngine:
    """Calls one HTTP worker. `generate` is the function that a `workers_shim.Worker` serves.

    Attributes:
        their_names: what the HTTP worker calls the models that have other names here.
        running: answers that are being made now.
    """

    def __init__(self, worker: OldWorker, on_unreachable: Callable[[str], None]) -> None:
        """`on_unreachable`: told, with the reason, from the engine's thread, before a request is given back."""
        self._worker = worker
        self._on_unreachable = on_unreachable
        self.their_names: Mapping[str, str] = {}
        self.running = 0
        self._conversations: dict[str, Conversation | None] = {}
        self._leaves_prompts_out: set[str] = set()

    async def generate(self, request: Request) -> AsyncIterator[str | Chunk]:
        """One answer.

        Raises: RequestError; Unavailable, when the worker never heard of the request; Lost, when it died in the middle
            of its answer; OldWorkerError; EngineFailed, when the worker says that it failed.
        """
        has_begun = bool(request.resume_text)
        request.model = self.their_names.get(request.model, request.model)
        self.running += 1
        try:
            if request.operation is Operation.EMBEDDING:
                async for part in embed(self._worker, request, _headers_of(request)):
                    yield part
                return
            task = make_task(request, await self._conversation(request))
            if has_begun:
                task = go_on(task, await self._measure(request, task))
                if task.is_complete:
                    yield Chunk(finish_reason="length", usage=_counted(task.begun))
                    return
            stripper = PromptStripper(task.prompt, honours_echo=request.model in self._leaves_prompts_out)
            async with (
                contextlib.aclosing(self._worker.generate(task.parameters, _headers_of(request))) as answers,
                contextlib.aclosing(_chunks(answers, task, stripper)) as chunks,
            ):
                async for chunk in chunks:
                    has_begun = has_begun or chunk != ""
                    yield chunk
        except UnreachableError as error:
            await self._leave(error)
            raise Unavailable(str(error)) from error
        except BrokenOffError as error:
            if not await self._answers():
                await self._leave(error)
            if not has_begun:
                # It may be what this request does to a worker: that is not for every worker to find out.
                raise
            raise Lost(str(error)) from error
        except RefusedError as error:
            raise RequestError(str(error)) from error
        finally:
            self.running -= 1
        if stripper.leaves_prompt_out:
            self._leaves_prompts_out.add(request.model)

    async def _leave(self, error: OldWorkerError) -> None:
        """Until the queues have been left, a request that is given back would come straight back."""
        self._on_unreachable(str(error))
        await asyncio.sleep(LEAVING_TIME)

    async def _answers(self) -> bool:
        try:
            await self._worker.ask("/worker_get_status", {})
        except UnreachableError:
            return False
        except OldWorkerError:
            pass
        return True

    async def _measure(self, request: Request, task: Task) -> Begun:
        """How many tokens the client has: FastChat's workers count them.

        Raises: UnreachableError.
        """
        text = request.resume_text
        try:
            prompt_tokens = await self._count(request, task.prompt)
            both = await self._count(request, task.prompt + text)
        except UnreachableError:
            raise
        except OldWorkerError as error:
            _log.info("tokens estimated, the worker does not count them model=%s reason=%s", request.model, error)
            return Begun(text, estimate_tokens(text))
        return Begun(text, max(0, both - prompt_tokens), prompt_tokens)

    async def _count(self, request: Request, text: str) -> int:
        """Raises: OldWorkerError."""
        question = {"model": request.model, "prompt": text}
        answer = await self._worker.ask("/count_token", question, _headers_of(request))
        count = answer.get("count") if isinstance(answer, dict) and not answer.get("error_code") else None
        if not isinstance(count, int):
            raise OldWorkerError("the answer to /count_token is no count")
        return count

    async def _conversation(self, request: Request) -> Conversation | None:
        """The model's template, asked for once; None for a worker that does not tell."""
        model = request.model
        if model not in self._conversations:
            try:
                answer = await self._worker.ask("/worker_get_conv_template", {"model": model}, _headers_of(request))
            except NotThereError:
                answer = None
            except UnreachableError:
                raise
            except OldWorkerError as error:
                _log.warning("no conversation template model=%s reason=%s", model, error)
                return None
            self._conversations[model] = conversation_from(answer)
        return self._conversations[model]


def _headers_of(request: Request) -> dict[str, str]:
    """The client's id of the request, for everybody's logs; and a count, for other controllers."""
    return {"X-Request-Id": quote(request.request_id, safe=string.punctuation), HOPS_HEADER: str(request.hops + 1)}


async def _chunks(
    answers: AsyncIterator[Answer | None], task: Task, stripper: PromptStripper
) -> AsyncGenerator[str | Chunk, None]:
    """Cumulative texts to deltas, and the facts about the answer to its last chunk."""
    begun = task.begun
    deltas = Deltas(stripper, task.their_stops, task.our_stops, begun=len(begun.text))
    async for answer in answers:
        # Without an answer it is empty, and yet a sign of life.
        yield "" if answer is None else deltas.feed(answer)
        if deltas.stopped:
            break
    for item in deltas.finish():
        if isinstance(item, Chunk) and (usage := item.usage) is not None:
            usage = Usage(usage.prompt_tokens - begun.tokens, usage.completion_tokens + begun.tokens)
            yield msgspec.structs.replace(item, usage=usage)
        else:
            yield item


def _counted(begun: Begun) -> Usage | None:
    return None if begun.prompt_tokens is None else Usage(begun.prompt_tokens, begun.tokens)
