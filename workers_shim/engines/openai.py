"""An OpenAI-compatible server (vLLM, SGLang, llama-server, Ollama, TGI, LM Studio) as an engine.

The client's bytes go up and the server's chunks come down, untouched: tool calls, logprobs and fields that are not
invented yet need nothing here. An ordinary user of the public API; which models the server has is `openai_watch`'s.

An answer that does not stream is asked for as one piece, though then nothing is heard while it is generated: so the
client gets the server's own bytes, and whatever dies, nothing was begun that another worker would have to go on with.
That the engine works is vouched for by the server's health meanwhile (`note_alive`).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from http import HTTPStatus

from broker_wire.messages import Question, QuestionKind
from workers_shim import Chunk, Lost, Request, Unavailable, Worker
from workers_shim.conversation import Conversation
from workers_shim.engines.http_client import (
    Address,
    BrokenOffError,
    HttpClient,
    HttpError,
    Response,
    UnreachableError,
)
from workers_shim.engines.openai_answers import BusyError, ChunkStream, ModelGoneError, failure_of, read_chunk
from workers_shim.engines.openai_requests import Call, make_call
from workers_shim.engines.openai_text import count_tokens
from workers_shim.engines.sse import MAX_EVENT

LEAVING_TIME = 0.25
"""Seconds in which a worker whose server is away leaves the queues: a request that is given back would come back."""
MAX_ERROR = 64 * 1024
"""Bytes of an error's body that are read."""
END_TIME = 0.25
"""Seconds that the end of the body may come after that of the answer, for the connection to be used again."""


class OpenAIServer:
    """Answers requests by one server. `generate` is the function of all its models.

    Attributes:
        on_trouble: told, with the reason, that the server should be looked at; from the engine's thread.
    """

    def __init__(
        self,
        address: Address,
        *,
        secret: str | None = None,
        keep: int = 1,
        upstream_names: Mapping[str, str] | None = None,
        resume: str = "never",
    ) -> None:
        """
        Args:
            address: up to `/v1`.
            secret: API key.
            keep: connections that are kept, at most.
            upstream_names: what the server calls the models that have another name here.
            resume: how an answer goes on that another worker began: "never" or "replay".
        """
        self.address = address
        self.secret = secret
        self.on_trouble: Callable[[str], None] = lambda _: None
        self._keep = keep
        self._upstream_names = dict(upstream_names or {})
        self._resume = resume
        self._client: HttpClient | None = None
        self._silent: set[Request] = set()
        """Requests that are answered in one piece."""

    def register(
        self,
        worker: Worker,
        model: str,
        *,
        abilities: tuple[str, ...],
        context_length: int | None,
        counts: bool = False,
        conversation: Conversation | None = None,
    ) -> None:
        """Serve a model by it. `counts`: the server tells how many tokens a text has.

        Raises: ValueError, TimeoutError, as `add_model`.
        """
        worker.add_model(
            model,
            self.generate,
            abilities=abilities,
            context_length=context_length,
            resume=self._resume,
            shared_loop="broker",
            many_prompts=True,
            unchecked=True,
            conversation=conversation,
            answers={QuestionKind.COUNT_TOKENS: self._count_tokens} if counts else None,
        )

    async def _count_tokens(self, question: Question) -> bytes:
        # Questions have a loop of their own: a connection that is kept belongs to one loop.
        client = HttpClient(self.address, secret=self.secret, keep=0)
        return await count_tokens(client, self._upstream_names.get(question.model, question.model), question)

    def note_alive(self) -> None:
        """The server has just said that it is well. Called from any thread."""
        # Copied at once, for requests come and go on another thread.
        for request in list(self._silent):
            request.progress()

    async def generate(self, request: Request) -> AsyncIterator[str | Chunk]:
        """One answer.

        Raises: RequestError; Unavailable, when the server runs nothing of it; Lost, when it broke off in the middle;
            HttpError, ServerError.
        """
        upstream = self._upstream_names.get(request.model, request.model)
        call = make_call(request, upstream, seeded=self._resume != "never")
        has_begun = False
        if not call.streams:
            self._silent.add(request)
        try:
            async with (
                self._client_here().request("POST", self.address.path + call.path, call.body) as response,
                contextlib.aclosing(_chunks(response, call)) as chunks,
            ):
                async for chunk in chunks:
                    has_begun = has_begun or (isinstance(chunk, Chunk) and bool(chunk.payload or chunk.text))
                    yield chunk
        except UnreachableError as error:
            await self._leave(str(error), LEAVING_TIME)
            raise Unavailable(str(error)) from error
        except (ModelGoneError, BusyError) as error:
            await self._leave(str(error), error.pause if isinstance(error, BusyError) else LEAVING_TIME)
            raise
        except BrokenOffError as error:
            self.on_trouble(str(error))
            if not has_begun:
                # It may be what this request does to a server: that is not for every worker to find out.
                raise
            raise Lost(f"{self.address.url} broke off: {error}") from error
        finally:
            self._silent.discard(request)

    async def _leave(self, reason: str, seconds: float) -> None:
        self.on_trouble(reason)
        await asyncio.sleep(seconds)

    def _client_here(self) -> HttpClient:
        """One for each loop: the shim makes a new one when models come back."""
        client = self._client
        if client is None or client.loop is not asyncio.get_running_loop():
            client = self._client = HttpClient(self.address, secret=self.secret, keep=self._keep)
        return client


async def _chunks(response: Response, call: Call) -> AsyncGenerator[str | Chunk, None]:
    """The answer's chunks, "" for a sign of life. Raises: as `generate`."""
    if response.status != HTTPStatus.OK:
        raise failure_of(response.status, await _read_error(response), response.fields.get("retry-after", ""))
    if response.content_type != "text/event-stream":
        yield read_chunk(await response.read(MAX_EVENT), as_text=call.as_text)
        return
    stream = ChunkStream(as_text=call.as_text)
    while piece := await response.read_some():
        is_sign_of_life = True
        for chunk in stream.feed(piece):
            is_sign_of_life = False
            yield chunk
        if stream.done:
            await _finish(response)
            return
        if is_sign_of_life:
            yield ""
    for chunk in stream.finish():
        yield chunk
    if not stream.has_end:
        raise BrokenOffError("the stream ended without a finish_reason and without [DONE]")


async def _finish(response: Response) -> None:
    """Read to the end of the body, if that is there, so that the connection can be used again."""
    try:
        async with asyncio.timeout(END_TIME):
            await response.read(MAX_ERROR)
    except (TimeoutError, HttpError):
        # Then it cannot.
        return


async def _read_error(response: Response) -> bytes:
    try:
        return await response.read(MAX_ERROR)
    except HttpError as error:
        return str(error).encode()
