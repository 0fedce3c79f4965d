"""Counts a text's tokens by llama.cpp's own HTTP port: its Python binding has no other way to ask.

Used by `llamacpp` when it goes on with an answer, which is rare, and by `llamacpp_embeddings`.
"""

import http.client
from urllib.parse import urlsplit

import msgspec

_TIMEOUT = 30.0
"""Seconds. It answers in less than a millisecond, but for a machine that is far too busy."""


class TokenCounter:
    """`address` is the server's URL on the loopback, `secret` its API key."""

    def __init__(self, address: str, secret: str) -> None:
        self._netloc = urlsplit(address).netloc
        self._secret = secret

    def count(self, text: str, *, add_special: bool = False) -> int:
        """`add_special`: those, too, that the model has around a text.

        Raises: RuntimeError, OSError.
        """
        connection = http.client.HTTPConnection(self._netloc, timeout=_TIMEOUT)
        try:
            body = msgspec.json.encode({"content": text, "add_special": add_special})
            headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
            connection.request("POST", "/tokenize", body, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"llama.cpp did not count the tokens: HTTP {response.status}")
        return len(msgspec.json.decode(answer)["tokens"])
