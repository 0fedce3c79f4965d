"""An HTTP worker of the old kind, called by its own protocol: LLaVA's and FastChat's.

Used by `engine` for its answers, and by whoever watches it for its status. What it sends is a stranger's: sizes are
bounded, redirects are not followed, and it is called at the bases of its address only. It knows nothing of the broker.
"""

import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

import httpx
import msgspec

from workers_shim.cumulative import Answer, read_answer
from workers_shim.engines.http.address import HttpAddress

CONNECT_TIMEOUT = 5.0
"""Seconds; also for the answer to a question that needs no generation, as in LLaVA and FastChat."""
WRITE_TIMEOUT = 30.0
"""Seconds without progress in sending a request."""
MAX_OBJECT_BYTES = 32 * 1024 * 1024
"""Of one object of a stream; the texts are cumulative."""
MAX_ANSWER_BYTES = 1024 * 1024
"""Of a status or a template."""
MAX_COMPLAINT_BYTES = 2_000
"""Of an error page that are read."""
_REFUSALS = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.LOOP_DETECTED,
    }
)


class OldWorkerError(Exception):
    """The worker did not do what it was asked. The text is a sentence for the client."""


class UnreachableError(OldWorkerError):
    """No connection: the worker does not know of the request."""


class BrokenOffError(OldWorkerError):
    """The connection ended before the answer did: mostly, the worker has died."""


class RefusedError(OldWorkerError):
    """The worker says that the request itself is wrong."""


class NotThereError(OldWorkerError):
    """The worker has no such endpoint."""


class OldWorker:
    """Calls one worker. Each request has a connection of its own: to close it is how the worker learns of a cancel."""

    def __init__(self, address: HttpAddress, tls: ssl.SSLContext) -> None:
        """`tls` checks the certificate of an https:// worker."""
        self.address = address
        self._tls = tls

    async def ask(self, path: str, question: dict[str, Any], headers: Mapping[str, str] | None = None) -> object:
        """A question that is answered at once; returns its JSON. `headers` go with it.

        Raises: OldWorkerError.
        """
        answer = await self.pass_on(path, msgspec.json.encode(question), headers)
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise OldWorkerError(f"{self._name}{path} answers with something that is no JSON") from error

    async def pass_on(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = CONNECT_TIMEOUT,
        limit: int = MAX_ANSWER_BYTES,
    ) -> bytes:
        """The same with the bytes of the question's JSON, and of its answer.

        Args:
            headers: go with the question.
            timeout: seconds in which the answer has to come, or to go on.
            limit: bytes of the answer.

        Raises: OldWorkerError.
        """
        answer = bytearray()
        async with self._post(path, body, headers, read_timeout=timeout) as response:
            async for data in response.aiter_raw():
                answer += data
                if len(answer) > limit:
                    raise OldWorkerError(f"{self._name}{path} answers with more than {limit} bytes")
        return bytes(answer)

    async def generate(
        self, parameters: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Answer | None, None]:
        """The objects of an answer, as they come; None where only a sign of life came. `headers` go with the request.

        Of several that have come meanwhile the last one is given: its text contains the others'.

        Raises: OldWorkerError.
        """
        body = msgspec.json.encode(parameters)
        async with self._post("/worker_generate_stream", body, headers, read_timeout=None) as response:
            buffer = bytearray()
            async for data in response.aiter_raw():
                buffer += data
                if b"\0" in data:
                    whole, _, rest = bytes(buffer).rpartition(b"\0")
                    buffer = bytearray(rest)
                    yield self._last_of(whole)
                elif len(buffer) > MAX_OBJECT_BYTES:
                    raise OldWorkerError(f"{self._name} sends an object of more than {MAX_OBJECT_BYTES} bytes")
            if buffer.strip():
                # LLaVA's and FastChat's clients take an object without its NUL, too.
                yield self._last_of(bytes(buffer))

    @property
    def _name(self) -> str:
        return f"the worker at {self.address.url}"

    def _last_of(self, whole: bytes) -> Answer | None:
        last = next((piece for piece in reversed(whole.split(b"\0")) if piece.strip()), None)
        if last is None:
            return None
        if len(last) > MAX_OBJECT_BYTES:
            raise OldWorkerError(f"{self._name} sends an object of more than {MAX_OBJECT_BYTES} bytes")
        try:
            return read_answer(last)
        except ValueError as error:
            raise OldWorkerError(f"{self._name} sends something that is no object of its protocol") from error

    @contextlib.asynccontextmanager
    async def _post(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None, *, read_timeout: float | None
    ) -> AsyncIterator[httpx.Response]:
        timeout = httpx.Timeout(CONNECT_TIMEOUT, read=read_timeout, write=WRITE_TIMEOUT)
        # No proxy and no password from the environment: the address that was checked is the one that is called.
        async with httpx.AsyncClient(verify=self._tls, timeout=timeout, trust_env=False) as client:
            try:
                response = await self._send(client, path, body, headers or {})
                try:
                    await self._check(path, response)
                    yield response
                finally:
                    await response.aclose()
            except httpx.HTTPError as error:
                what = str(error) or type(error).__name__
                raise BrokenOffError(f"the connection to {self._name} broke off: {what}") from error

    async def _send(
        self, client: httpx.AsyncClient, path: str, content: bytes, more_headers: Mapping[str, str]
    ) -> httpx.Response:
        address = self.address
        headers = {
            "Host": address.host_header,
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            **more_headers,
        }
        extensions = {"sni_hostname": address.server_name} if address.server_name else {}
        problem = ""
        for base in address.bases:
            request = client.build_request("POST", base + path, content=content, headers=headers, extensions=extensions)
            try:
                return await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                problem = str(error) or f"no answer in {CONNECT_TIMEOUT:g} s"
        raise UnreachableError(f"{self._name} cannot be reached: {problem}")

    async def _check(self, path: str, response: httpx.Response) -> None:
        if response.status_code == HTTPStatus.OK:
            return
        complaint = bytearray()
        async for data in response.aiter_raw():
            complaint += data
            if len(complaint) >= MAX_COMPLAINT_BYTES:
                break
        text = bytes(complaint[:MAX_COMPLAINT_BYTES]).decode(errors="replace")
        sentence = f"{self._name} answers {path} with HTTP {response.status_code}: {text}"
        if response.status_code in _REFUSALS:
            raise RefusedError(sentence)
        if response.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            raise NotThereError(sentence)
        raise OldWorkerError(sentence)
