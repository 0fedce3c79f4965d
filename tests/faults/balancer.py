"""One address before several controllers: what a load balancer does, and no more. It never sends a request twice."""

import asyncio
import contextlib
import itertools
from typing import Self
from urllib.parse import urlsplit


class Balancer:
    """Each connection goes to the next backend that takes it. A context manager."""

    def __init__(self, *backends: str) -> None:
        """`backends` are URLs; `self.backends` may be changed at any time."""
        self.backends = list(backends)
        self._turn = itertools.count()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The one address."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        backend: asyncio.StreamWriter | None = None
        try:
            answers, backend = await self._connect()
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, backend))
                pumps.create_task(_pump(answers, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one of the two has hung up: so does the balancer
        finally:
            self._tasks.discard(task)
            for end in (writer, backend):
                if end is not None:
                    end.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        first = next(self._turn)
        backends = self.backends
        for number in range(first, first + len(backends)):
            address = urlsplit(backends[number % len(backends)])
            with contextlib.suppress(ConnectionRefusedError):
                return await asyncio.open_connection("127.0.0.1", address.port)
        raise ConnectionRefusedError("no backend takes connections")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the sender's end, which is passed on."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
