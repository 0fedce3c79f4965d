"""One generation of llama.cpp's: its thread, and its chunks as our own. Used by `llamacpp`."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from workers_shim import Chunk, Request, RequestError, Usage


class Generation:
    """llama.cpp calls back for each token on the thread that asked: that is one of its own, and a queue is between."""

    def __init__(self, server: Any, request: Request, body: dict[str, Any]) -> None:
        self._request = request
        self._stopped = False
        # As long as the context at most: back-pressure has nothing to hold here, the tokens are made by other threads.
        self._queue: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        handle = server.handle_completions if "prompt" in body else server.handle_chat_completions
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


def read_chunk(chunk: dict[str, Any], had: int) -> Iterator[str | Chunk]:
    """A chunk of llama.cpp's, as our own.

    `had` is the number of tokens that belong to the answer, though they came with the prompt.

    Raises: RequestError, RuntimeError.
    """
    if "error" in chunk:
        _raise(chunk["error"])
    if "prompt_progress" in chunk:
        # An empty text is a sign of life.
        yield ""
        return
    finish_reason = None
    for choice in chunk["choices"]:
        finish_reason = choice.get("finish_reason")
        delta = choice.get("delta") or {}
        text = delta.get("content") or choice.get("text") or ""
        if delta.keys() - {"role", "content"}:
            # Tool calls, and what else is not plain text.
            yield Chunk(text, payload=msgspec.json.encode(chunk))
        elif (logprobs := choice.get("logprobs")) is not None:
            yield Chunk(text, logprobs=logprobs)
        elif text:
            yield text
    usage = chunk.get("usage")
    if finish_reason or usage:
        counts = usage and Usage(usage["prompt_tokens"] - had, usage["completion_tokens"] + had)
        yield Chunk(finish_reason=finish_reason, usage=counts or None)


def only_the_end(item: str | Chunk) -> str | Chunk:
    """Of an answer that was complete but for its end: llama.cpp generates one token at least, which is left out."""
    if isinstance(item, str) or item.usage is None:
        return ""
    usage = item.usage
    return Chunk(finish_reason="length", usage=Usage(usage.prompt_tokens, usage.completion_tokens - 1))


def _raise(error: dict[str, Any]) -> None:
    message = str(error.get("message", error))
    if 400 <= int(error.get("code", 500)) < 500:
        raise RequestError(message)
    raise RuntimeError(message)
