"""One generation of llama.cpp's: its thread, and its chunks as our own. Used by `llamacpp`."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import msgspec

from workers_shim import Chunk, Request, RequestError, Usage
from workers_shim.engines.llamacpp_server import LlamaServer
from workers_shim.engines.openai_answers import refusal


class Generation:
    """llama.cpp calls back for each token on the thread that asked: that is one of its own, and a queue is between."""

    def __init__(self, server: LlamaServer, request: Request, body: dict[str, Any]) -> None:
        self._request = request
        self._stopped = False
        # As long as the context at most: back-pressure has nothing to hold here, the tokens are made by other threads.
        self._queue: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        handle = _way_in(server, body)
        self._thread = threading.Thread(target=self._main, args=(handle, body), name="llamacpp", daemon=True)
        self._thread.start()

    def chunks(self) -> Iterator[dict[str, Any]]:
        """llama.cpp's chunks, as they come; ends early when the request is cancelled."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
        self._request.raise_if_cancelled()

    def stop(self) -> None:
        """Have it end at its next token, and wait for that."""
        self._stopped = True
        self._thread.join()

    def _main(self, handle: Any, body: dict[str, Any]) -> None:
        try:
            handle(body, self._on_chunk)
        except (ValueError, RuntimeError) as error:
            # What goes wrong while it generates comes as a chunk. This is the body, which it cannot make sense of.
            self._queue.put(RequestError(f"llama.cpp cannot read the request: {error}"))
        except BaseException as error:  # noqa: BLE001 - it is raised again where the chunks are read
            self._queue.put(error)
        finally:
            self._queue.put(None)

    def _on_chunk(self, chunk: dict[str, Any]) -> bool:
        """True ends the generation."""
        self._queue.put(chunk)
        return self._stopped or self._request.cancelled


def _way_in(server: LlamaServer, body: dict[str, Any]) -> Callable[[dict[str, Any], Callable[[Any], bool]], Any]:
    if isinstance(body.get("prompt"), dict):
        return server.text.complete
    way: Any = server.handle.handle_completions if "prompt" in body else server.handle.handle_chat_completions
    return way  # type: ignore[no-any-return]  # the binding has no types


class ChunkReader:
    """llama.cpp's chunks of one choice, as our own.

    Args:
        had: the number of tokens that belong to the answer, though they came with the prompt.
        index: which choice it is.
    """

    def __init__(self, request: Request, had: int, index: int = 0) -> None:
        self._request = request
        self._had = had
        self._index = index
        # All chunks of an answer with one such chunk are such chunks, from there on.
        self._as_they_come = False

    def read(self, chunk: dict[str, Any]) -> Iterator[str | Chunk]:
        """Raises: RequestError, RuntimeError."""
        if "error" in chunk:
            raise_error(chunk["error"])
        if "prompt_progress" in chunk:
            # An empty text is a sign of life.
            yield ""
            return
        for choice in chunk["choices"]:
            choice["index"] = self._index
            yield from self._read_choice(chunk, choice)
        if usage := chunk.get("usage"):
            counts = Usage(usage["prompt_tokens"] - self._had, usage["completion_tokens"] + self._had)
            yield Chunk(usage=counts)

    def _read_choice(self, chunk: dict[str, Any], choice: dict[str, Any]) -> Iterator[str | Chunk]:
        finish_reason = choice.get("finish_reason")
        delta = choice.get("delta") or {}
        text = delta.get("content") or choice.get("text") or ""
        # Tool calls, and what else is not plain text.
        self._as_they_come = self._as_they_come or bool(delta.keys() - {"role", "content"})
        if self._as_they_come:
            yield Chunk(text, finish_reason, payload=self._payload(chunk), index=self._index)
        elif finish_reason is not None or choice.get("logprobs") is not None:
            yield Chunk(text, finish_reason, logprobs=choice.get("logprobs"), index=self._index)
        elif text:
            yield Chunk(text, index=self._index) if self._index else text

    def _payload(self, chunk: dict[str, Any]) -> bytes:
        """Without what is llama.cpp's own: its time, and a path of this machine for a name."""
        own = {name: value for name, value in chunk.items() if name != "timings"}
        return msgspec.json.encode(own | {"model": self._request.model})


def only_the_end(item: str | Chunk) -> str | Chunk:
    """Of an answer that was complete but for its end: llama.cpp generates one token at least, which is left out."""
    if isinstance(item, str) or item.usage is None:
        return ""
    usage = item.usage
    return Chunk(finish_reason="length", usage=Usage(usage.prompt_tokens, usage.completion_tokens - 1))


def raise_error(error: dict[str, Any]) -> NoReturn:
    """Raises: RequestError, or RuntimeError for what is no fault of the request."""
    message = str(error.get("message", error))
    if 400 <= int(error.get("code", 500)) < 500:
        raise refusal(message, error)
    raise RuntimeError(message)
