"""All clients of one fault test: those that are sent by name, and those that keep coming. Knows no fault."""

import asyncio
import itertools
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.faults.client import Client, Protocol
from tests.faults.history import Exchange
from tests.waiting import eventually

ARRIVING = "arriving"
"""The group of those that keep coming."""
DEADLINE = 90.0
"""Seconds in which a request of these tests ends, unless a test says otherwise."""


class Load:
    """All clients of one test: it owns their tasks, and no client outlives it."""

    def __init__(self) -> None:
        self._tasks = asyncio.TaskGroup()
        self._numbers = itertools.count(1)
        self.clients: list[Client] = []
        self._running: list[asyncio.Task[Exchange]] = []
        self._arrivals: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.end_arrivals()
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(kind, error, tb)

    @property
    def exchanges(self) -> list[Exchange]:
        """In the order in which they were sent."""
        return [client.exchange for client in self.clients]

    def send(
        self,
        url: str,
        group: str,
        *,
        steps: str = "",
        tokens: int = 60,
        within: float = DEADLINE,
        protocol: Protocol = Protocol.OPENAI,
        model: str = "m",
        worker: str = "",
        headers: dict[str, str] | None = None,
        receive_buffer: int | None = None,
    ) -> Client:
        """Ask a controller. `steps` are the words that steer the engine; no two prompts are the same.

        `worker`: who alone may answer; LLaVA's protocol has an address for that.
        `receive_buffer`: bytes of the connection's buffer in the kernel, for a client that is to read slowly.
        """
        number = next(self._numbers)
        now = time.monotonic()
        exchange = Exchange(
            id=f"r{number}",
            group=group,
            prompt=f"r{number} {steps} quick brown fox jumps".replace("  ", " "),
            tokens=tokens,
            sent_at=now,
            deadline=now + within,
        )
        client = Client(url, exchange, protocol, model, headers or {}, receive_buffer, worker)
        self.clients.append(client)
        self._running.append(self._tasks.create_task(client.run(), name=exchange.id))
        return client

    def begin_arrivals(self, url: str, interval: float, tokens: int) -> None:
        """From now on a new client comes every `interval` seconds, by every protocol in turn."""
        self._arrivals = self._tasks.create_task(self._arrive(url, interval, tokens), name="arrivals")

    async def end_arrivals(self) -> None:
        """Nobody else comes."""
        arrivals, self._arrivals = self._arrivals, None
        if arrivals is not None:
            arrivals.cancel()
            await asyncio.wait([arrivals])

    async def _arrive(self, url: str, interval: float, tokens: int) -> None:
        for protocol in itertools.cycle(Protocol):
            self.send(url, ARRIVING, tokens=tokens, protocol=protocol)
            await asyncio.sleep(interval)

    async def until_each(self, group: str, condition: Callable[[Exchange], object], within: float = 30.0) -> None:
        """Wait until it is true of every exchange of the group."""
        await eventually(lambda: all(condition(each) for each in self.exchanges if each.group == group), within)

    async def until_all_ended(self) -> list[Exchange]:
        """Every exchange, each ended, or given up a little after its deadline.

        Clients that keep coming do so until all others have ended.
        """
        if self._arrivals is not None:
            arriving = {each.exchange.id for each in self.clients if each.exchange.group == ARRIVING}
            await asyncio.wait([task for task in self._running if task.get_name() not in arriving])
            await self.end_arrivals()
        return list(await asyncio.gather(*self._running))
