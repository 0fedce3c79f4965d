"""Asks llama.cpp about texts by its own HTTP port: its Python binding has no other way.

How many tokens a text has, and how the model's template writes a chat. Used by `llamacpp` and `llamacpp_embeddings`.
"""

import http.client
from typing import Any
from urllib.parse import urlsplit

import msgspec

_TIMEOUT = 30.0
"""Seconds. It answers in less than a millisecond, but for a machine that is far too busy."""


class LlamaCppText:
    """`address` is the server's URL on the loopback, `secret` its API key. Called from any thread."""

    def __init__(self, address: str, secret: str) -> None:
        self._netloc = urlsplit(address).netloc
        self._secret = secret

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

    def _ask(self, path: str, question: dict[str, Any]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._netloc, timeout=_TIMEOUT)
        try:
            headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
            connection.request("POST", path, msgspec.json.encode(question), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
