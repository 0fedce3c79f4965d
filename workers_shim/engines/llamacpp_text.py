"""Asks llama.cpp by its own HTTP port for what its Python binding has no way for.

How many tokens a text has, how the model's template writes a chat, and what comes after a prompt with images. Used by
`llamacpp` and `llamacpp_embeddings`.
"""

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec

_TIMEOUT = 30.0
"""Seconds. It answers in less than a millisecond, but for a machine that is far too busy."""
_SILENCE = 600.0
"""Seconds without a byte of a completion: an image is read without a word, on a slow CPU for minutes."""


class LlamaCppText:
    """`address` is the server's URL on the loopback, `secret` its API key, if any. Called from any thread."""

    def __init__(self, address: str, secret: str = "") -> None:
        self._netloc = urlsplit(address).netloc
        self._secret = secret

    def wait_for_loop(self) -> None:
        """Until the server's loop of requests runs, which is shortly after its binding says that it is there.

        Who ends the server before that waits for ever, with the interpreter's lock: the loop begins after it was told
        to end (`server_queue::start_loop` forgets a `terminate` of before). The state of the slots comes from the loop.

        Raises: OSError.
        """
        with self._response("GET", "/slots") as response:
            response.read()

    def count(self, text: str, *, add_special: bool = False) -> int:
        """How many tokens a text has; `add_special`: with those, too, that the model has around a text.

        Raises: RuntimeError, OSError.
        """
        status, answer = self._ask("/tokenize", {"content": text, "add_special": add_special})
        if status != http.HTTPStatus.OK:
            raise RuntimeError(f"llama.cpp did not count the tokens: HTTP {status}")
        return len(msgspec.json.decode(answer)["tokens"])

    def render(self, messages: list[dict[str, str]]) -> str | None:
        """A chat as a prompt, the assistant's turn left open; None for one that the template refuses.

        Raises: OSError.
        """
        status, answer = self._ask("/apply-template", {"messages": messages})
        return str(msgspec.json.decode(answer)["prompt"]) if status == http.HTTPStatus.OK else None

    def media_marker(self) -> str:
        """What stands in a prompt where an image does: another one at every start of the server.

        Raises: KeyError, OSError.
        """
        with self._response("GET", "/props") as response:
            properties = msgspec.json.decode(response.read())
        return str(properties["media_marker"])

    def complete(self, body: dict[str, Any], on_chunk: Callable[[dict[str, Any]], bool]) -> None:
        """As the binding's `handle_completions`, of a prompt with images.

        Args:
            on_chunk: True ends the generation: llama.cpp notices at its next token that nobody reads any more.

        Raises: OSError.
        """
        try:
            with self._response("POST", "/completion", body, timeout=_SILENCE) as response:
                if response.status != http.HTTPStatus.OK:
                    on_chunk(msgspec.json.decode(response.read()))
                    return
                for line in response:
                    if line.startswith(b"data: ") and _ends(msgspec.json.decode(line[6:]), on_chunk):
                        return
        except (http.client.HTTPException, msgspec.DecodeError) as error:
            raise ConnectionError(f"llama.cpp's answer cannot be read: {error!r}") from error
        raise ConnectionError("llama.cpp broke off its answer")

    def _ask(self, path: str, question: dict[str, Any]) -> tuple[int, bytes]:
        with self._response("POST", path, question) as response:
            return response.status, response.read()

    @contextmanager
    def _response(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout: float = _TIMEOUT
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._netloc, timeout=timeout)
        try:
            headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else msgspec.json.encode(body), headers)
            yield connection.getresponse()
        finally:
            connection.close()


def _ends(chunk: dict[str, Any], on_chunk: Callable[[dict[str, Any]], bool]) -> bool:
    """Hand it on. Whether it was the last one, or nobody wants more."""
    return on_chunk(_as_openai(chunk)) or "error" in chunk or bool(chunk.get("stop"))


def _as_openai(chunk: dict[str, Any]) -> dict[str, Any]:
    """A chunk of llama.cpp's own completions in the form of OpenAI's."""
    if "error" in chunk or "prompt_progress" in chunk:
        return chunk
    choice: dict[str, Any] = {"text": chunk["content"]}
    if probabilities := chunk.get("completion_probabilities"):
        choice["logprobs"] = {"content": probabilities}
    if not chunk["stop"]:
        return {"choices": [choice]}
    choice["finish_reason"] = "length" if chunk["stop_type"] == "limit" else "stop"
    usage = {"prompt_tokens": chunk["tokens_evaluated"], "completion_tokens": chunk["tokens_predicted"]}
    return {"choices": [choice], "usage": usage}
